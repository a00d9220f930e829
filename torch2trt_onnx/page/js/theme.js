// Before the first paint: what the reader chose last, else what the system says.
try {
  const chosen = localStorage.getItem("torch2trt_onnx-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {} // a browser that keeps nothing for files

addEventListener("click", (event) => {
  if (!event.target.closest("#theme")) return; // the button is not there yet
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (document.documentElement.dataset.theme || system) === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("torch2trt_onnx-theme", next);
  } catch {} // not kept, then
});
