// Before the first paint: what the reader chose last, else what the system says.
try {
  const chosen = localStorage.getItem("torch2trt_onnx-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {} // a browser that keeps nothing for files
