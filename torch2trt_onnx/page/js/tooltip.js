// One box that follows the pointer; what it tells stands in the tree and in the stories too.
const tooltip = {
  show(event, ...content) {
    const box = by("tooltip");
    box.replaceChildren(...content);
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    box.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
  },
  hide() {
    by("tooltip").hidden = true;
  },
};
