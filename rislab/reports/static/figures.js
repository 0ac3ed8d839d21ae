const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function themed(layout) {
  const ink = colour("--ink"), line = colour("--line"), clear = "rgba(0,0,0,0)";
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, backgroundcolor: clear};
  const template = structuredClone(layout.template || {});
  const base = template.layout = template.layout || {};
  for (const name of ["xaxis", "yaxis"]) base[name] = {...base[name], ...axis};
  base.scene = {...base.scene};
  for (const name of ["xaxis", "yaxis", "zaxis"]) base.scene[name] = {...base.scene[name], ...axis};
  base.polar = {...base.polar, bgcolor: clear};
  for (const name of ["angularaxis", "radialaxis"]) base.polar[name] = {...base.polar[name], ...axis};
  base.margin = {l: 64, r: 16, t: layout.title ? 56 : 24, b: 52, ...base.margin};
  base.title = {...base.title, x: 0, xref: "container", font: {size: 16}};
  base.hoverlabel = {...base.hoverlabel, font: {color: ink}, bgcolor: colour("--paper"), bordercolor: line};
  const family = getComputedStyle(document.body).fontFamily;
  return {template, font: {family, ...layout.font, color: ink}, paper_bgcolor: clear, plot_bgcolor: clear};
}
for (const figure of document.querySelectorAll("figure[data-plotly]")) {
  const {data, layout} = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector("div");
  Plotly.newPlot(plot, data, {...layout, ...themed(layout)}, {
    responsive: true, displaylogo: false, staticPlot: figure.dataset.plotly == "still"
  });
  dark.addEventListener("change", () => Plotly.relayout(plot, themed(layout)));
}
