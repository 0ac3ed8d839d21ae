// Styles of the page itself: they hold for plain figures when the output that brought them is cleared or out of view.
(css) => {
  if (document.getElementById("rislab-theme")) return;
  const style = document.createElement("style");
  style.id = "rislab-theme";
  style.textContent = css;
  document.head.append(style);
  // JupyterLab shows the picture of a saved figure, which is a light one, until the pointer comes over it.
  const draw = (image) => {
    if (image.className !== "plot-img" || !image.src || image.dataset.drawn) return;
    if (document.body.dataset.jpThemeLight !== "false") return;
    image.dataset.drawn = "once";
    image.dispatchEvent(new MouseEvent("mouseenter"));
  };
  const drawAll = () => document.querySelectorAll("img.plot-img").forEach(draw);
  document.addEventListener("load", ({ target }) => draw(target), true);
  // A picture that was loaded before its cell came into the page is heard by nobody.
  setInterval(drawAll, 500);
  new MutationObserver(drawAll).observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  drawAll();
}
