const dark = matchMedia("(prefers-color-scheme: dark)");
const PAPER = {width: 904, height: 1240}; // pixels between the margins of A4, at the zoom of page.css
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
function draw(figure) {
  const {data, layout} = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector("div"), still = figure.dataset.plotly == "still";
  Plotly.newPlot(plot, data, {...layout, ...themed(layout)}, {responsive: true, displaylogo: false, staticPlot: still});
  const repaint = (more) => Plotly.relayout(plot, {...themed(layout), ...more});
  dark.addEventListener("change", () => repaint({}));
  if (still) return [() => repaint({}), () => repaint({})];
  const {width = null, height = null} = layout;
  const onPaper = {autosize: false, width: PAPER.width, height: Math.min(height ?? 450, PAPER.height)};
  return [() => repaint(onPaper), () => repaint({autosize: true, width, height})];
}
async function unpack(node) {
  const bytes = Uint8Array.from(atob(node.textContent), (letter) => letter.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(Object.assign(document.createElement("script"), {textContent: text}));
}
async function begin() {
  const packed = document.getElementById("plotly");
  if (packed) await unpack(packed);
  const figures = [...document.querySelectorAll("figure[data-plotly]")].map(draw);
  const answers = [...document.querySelectorAll("details:not([open]):not(:has(> .highlight))")];
  const turn = (printing) => {
    document.documentElement.classList.toggle("paper", printing);
    for (const one of answers) one.open = printing;
    for (const [onPaper, onScreen] of figures) printing ? onPaper() : onScreen();
  };
  addEventListener("beforeprint", () => turn(true));
  addEventListener("afterprint", () => turn(false));
}
begin();
