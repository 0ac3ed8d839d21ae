// Draws the figure that the kernel sends, answers with its number, and tells the kernel of clicks and moved shapes.
// What changes is a model of its own, which gets the kernel's messages however late this one was ready (PlotState).
function dark() {
  return document.body.dataset.jpThemeLight === "false";
}
function late(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}
async function library() {
  for (let tries = 0; !globalThis.rislabPlotly && tries < 600; tries++) await late(50);
  return globalThis.rislabPlotly;
}
// One plot of the page after the other, with a rest in between: models that come meanwhile must get ready.
function inTurn(work) {
  const turn = (globalThis.rislabTurn ?? Promise.resolve()).then(work);
  globalThis.rislabTurn = Promise.race([turn.catch(() => null), late(500)]).then(() => late(20));
  return turn;
}
// A slider of ipywidgets has no name of its own: the label beside it speaks for its handle.
function nameSliders() {
  for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
    const label = handle.closest(".rislab-knob, .widget-slider")?.querySelector("label");
    if (label?.textContent) handle.setAttribute("aria-label", label.textContent);
  }
}
export default {
  async render({ model, el }) {
    const state = await model.widget_manager.get_model(model.get("state").slice("IPY_MODEL_".length));
    const Plotly = await library();
    const node = document.createElement("div");
    node.style.width = "100%";
    el.appendChild(node);
    if (!Plotly) { el.textContent = "plotly.js did not load; the figures below are static."; return; }
    let busy = false, waiting = false, listening = false;
    async function draw() {
      if (busy) { waiting = true; return; }
      busy = true;
      try {
        do {
          waiting = false;
          await inTurn(drawOnce);
        } while (waiting);
      } finally {
        busy = false;
      }
    }
    async function drawOnce() {
      const { number, data, layout } = structuredClone(state.get("figure"));
      if (!layout) return;
      layout.template = model.get("templates")[dark() ? "dark" : "light"];
      const options = { responsive: true, displaylogo: false, ...model.get("options") };
      try {
        // A node that is taken out of the page while it draws may never answer.
        await Promise.race([Plotly.react(node, data, layout, options), late(5000)]);
      } catch (error) {
        console.error("rislab: a drawing failed and is made anew:", error);
        await Plotly.newPlot(node, data, layout, options);
        listening = false;
      }
      nameSliders();
      if (!listening) { listen(); listening = true; }
      state.set("drawn", number);
      state.save_changes();
    }
    function tell(kind, content) {
      state.set("event", { kind, ...content, at: Date.now() });
      state.save_changes();
    }
    function listen() {
      node.on("plotly_click", ({ points }) => {
        const [{ x, y, curveNumber, pointNumber, customdata }] = points;
        tell("click", { x, y, curve: curveNumber, point: pointNumber, customdata: customdata ?? null });
      });
      node.on("plotly_relayout", (change) => {
        const moved = Object.fromEntries(Object.entries(change).filter(([name]) => name.startsWith("shapes[")));
        if (Object.keys(moved).length) tell("shape", { moved });
      });
    }
    const observer = new MutationObserver(draw);
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    state.on("change:figure", draw);
    await draw();
    return () => { observer.disconnect(); state.off("change:figure", draw); Plotly.purge(node); };
  },
};
