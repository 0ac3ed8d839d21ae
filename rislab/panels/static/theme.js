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
  // A plain figure that needs more width than its cell has scrolls there, as the live ones do (plot.js).
  setInterval(() => {
    for (const plot of document.querySelectorAll(".jp-RenderedPlotly.js-plotly-plot:not([style*=min-width])")) {
      if (!plot.layout?.meta?.least) continue;
      plot.style.minWidth = `${plot.layout.meta.least}px`;
      plot.parentNode.style.overflowX = "auto";
      globalThis.rislabPlotly?.Plots.resize(plot);
    }
  }, 500);
  new MutationObserver(drawAll).observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  drawAll();
}
