// What follows the address and the keyboard.
function follow() {
  const name = /^#node=(.*)$/.exec(location.hash)?.[1];
  const node = name === undefined ? null : named.get(decoded(name));
  if (node) openStory(node);
  else if (name === undefined || !location.hash) closeStory();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (document.activeElement === by("search") && by("search").value) return; // the field clears itself
    closeStory();
  } else if (event.key === "/" && !event.ctrlKey && !event.metaKey && !/^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName)) {
    event.preventDefault();
    by("search").focus();
  }
});

for (const cell of document.querySelectorAll(".matrix .cell")) {
  cell.addEventListener("click", () => only(root, cell.dataset.precisionFilter, cell.dataset.verdict));
}

// Where a table is wider than the screen, the keyboard must reach it to scroll.
const widths = new ResizeObserver((all) => {
  for (const { target } of all) target.toggleAttribute("tabindex", target.scrollWidth > target.clientWidth) && target.setAttribute("tabindex", "0");
});
for (const box of document.querySelectorAll(".scroll")) widths.observe(box);

addEventListener("hashchange", follow);
picture.start();
filters.start();
grid.start();
startChanges();
follow();
