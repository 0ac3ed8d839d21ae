// Draws the figure that the kernel sends, whole or what is new in it, answers now and then with its number, and tells the kernel of clicks and moved shapes.
// What changes is a model of its own, which gets the kernel's messages however late this one was ready (PlotState).
// What nobody sees is not drawn, and not answered: the kernel then sends less and less.
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
const NEAR = "100px"; // from the window, or from what scrolls within it
const EVERY = 4; // figure is answered, since JupyterLab draws its own bars for each answer; fewer than AHEAD of plot_widget.py
const ARRAYS = {
  f4: Float32Array, f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array,
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array,
};
function bytes({ buffer }) {
  return new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);
}
// What plotly.js takes in place of packed numbers.
function unpacked(value) {
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== "object") return value;
  if (!("buffer" in value && "dtype" in value)) {
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpacked(part)]));
  }
  const flat = new ARRAYS[value.dtype](bytes(value).slice().buffer), [rows, columns] = value.shape;
  if (columns === undefined) return flat;
  return Array.from({ length: rows }, (_, row) => flat.subarray(row * columns, (row + 1) * columns));
}
function longer(old, { from, values }) {
  const size = ARRAYS[values.dtype].BYTES_PER_ELEMENT, joined = new Uint8Array(from * size + values.buffer.byteLength);
  joined.set(bytes(old).subarray(0, from * size));
  joined.set(bytes(values), from * size);
  return { dtype: values.dtype, shape: [from + values.shape[0]], buffer: new DataView(joined.buffer) };
}
function changed(old, { set = {}, tail = {}, gone = [] } = {}) {
  const part = { ...old, ...set };
  for (const [name, values] of Object.entries(tail)) part[name] = longer(part[name], values);
  for (const name of gone) delete part[name];
  return part;
}
// Brings the figure of the model up to date; false if it is not the one that the news are about.
function patched(state) {
  const figure = state.get("figure"), { base, number, count, traces, layout, again } = state.get("patch");
  if (!number || number < figure.number || (number === figure.number && (base || !again))) return true;
  if (base && base !== figure.number) return false;
  const old = base ? figure : { data: [], layout: {} };
  const data = Array.from({ length: count }, (_, place) => changed(old.data[place], traces[place]));
  // Not by set(): the kernel would get it back.
  state.attributes.figure = { number, data, layout: changed(old.layout, layout) };
  return true;
}
// Whether a patch moves points of curves, and changes nothing else: axes, titles and the legend may stay as they are.
// An axis without a range of its own follows its points, and is drawn with all of the figure.
const POINTS = ["x", "y", "text", "hovertext", "customdata"];
function movesPoints({ base, count, traces, layout }, { data, layout: axes }) {
  const stays = (axis) => axes[axis[0] + "axis" + axis.slice(1)]?.range;
  const curve = ([place, { set = {}, tail = {}, gone }]) => data[place].type === "scatter" && !gone
    && stays(data[place].xaxis ?? "x") && stays(data[place].yaxis ?? "y")
    && Object.keys({ ...set, ...tail }).every((name) => POINTS.includes(name));
  return base && !layout && count === data.length && data.every(({ type }) => type === "scatter" || type === "bar")
    && Object.entries(traces).every(curve);
}
const AT_ONCE = { mode: "immediate", frame: { duration: 0, redraw: false }, transition: { duration: 0 } };
// Behind its curves an axis has as many pixels for their labels as the figure asks for, however wide the page is.
function makeRoom({ meta, margin, xaxis }, width) {
  const across = meta?.room && (width - margin.l - margin.r) * (xaxis.domain[1] - xaxis.domain[0]);
  if (across > 0) xaxis.range = [xaxis.range[0], xaxis.range[1] * across / Math.max(across / 2, across - meta.room)];
}
// Sliders of ipywidgets and the buttons of its player have no name of their own: labels, tooltips and icons speak for them.
const PLAYER = { "fa-play": "play or pause", "fa-pause": "play or pause", "fa-stop": "back to the beginning" };
function nameControls(panel) {
  for (const handle of panel.querySelectorAll(".noUi-handle:not([aria-label])")) {
    const label = handle.closest(".rislab-knob, .widget-slider")?.querySelector("label");
    const name = label?.textContent || handle.closest("[title]")?.title;
    if (name) handle.setAttribute("aria-label", name);
  }
  for (const icon of panel.querySelectorAll(".widget-play button:not([title]) > .fa")) {
    const name = PLAYER[[...icon.classList].find((one) => one in PLAYER)];
    if (name) icon.parentNode.title = name;
  }
}
// A button that moves while the mouse is pressed on it, as JupyterLab scrolls or a text grows, still takes the click;
// who moves the mouse away takes the press back.
const PRESS = 30; // pixels
function keepPresses() {
  if (globalThis.rislabPresses) return;
  globalThis.rislabPresses = true;
  let pressed = null;
  addEventListener("pointerdown", (event) => {
    const button = event.target.closest?.(".rislab-panel button");
    if (!button) return;
    pressed = { button, x: event.clientX, y: event.clientY };
    button.setPointerCapture(event.pointerId);
  }, true);
  addEventListener("pointermove", (event) => {
    if (!pressed || Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < PRESS) return;
    if (pressed.button.hasPointerCapture(event.pointerId)) pressed.button.releasePointerCapture(event.pointerId);
    pressed = null;
  }, true);
}
export default {
  async render({ model, el }) {
    keepPresses();
    const state = await model.widget_manager.get_model(model.get("state").slice("IPY_MODEL_".length));
    const Plotly = await library();
    const node = document.createElement("div");
    node.style.width = "100%";
    el.appendChild(node);
    if (!Plotly) { el.textContent = "plotly.js did not load; the figures below are static."; return; }
    let busy = false, waiting = false, listening = false, stale = false, near = true;
    let points = false; // whether since the last drawing only points have moved
    let width = 0; // of the last drawing
    let took = 0; // milliseconds that the last drawing took, painting included
    let answered = 0, told = 0; // the last number that the kernel was told, and how long drawing took then
    function show(moved = false) {
      points = points && moved;
      stale = true;
      catchUp();
    }
    function catchUp() {
      if (stale && near && document.visibilityState === "visible") draw();
    }
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
    // Half the work of a whole drawing. Of all traces: those that are not named would be taken away.
    function movePoints(data) {
      const part = (trace) => Object.fromEntries(POINTS.filter((name) => name in trace).map((name) => [name, trace[name]]));
      return Plotly.animate(node, { data: data.map(part), traces: [...data.keys()] }, AT_ONCE);
    }
    async function drawOnce() {
      stale = false;
      const { number, ...packed } = state.get("figure"), { data, layout } = unpacked(packed);
      if (!layout) return;
      const move = points;
      points = true;
      const began = performance.now();
      layout.template = model.get("templates")[dark() ? "dark" : "light"];
      const options = { responsive: true, displaylogo: false, ...model.get("options") };
      // When the window is resized, plotly.js forgets the height of the figure and takes that of its place.
      node.style.height = layout.height ? `${layout.height}px` : "";
      // What needs more width than the page has scrolls by itself.
      node.style.minWidth = layout.meta?.least ? `${layout.meta.least}px` : "";
      el.style.overflowX = layout.meta?.least ? "auto" : "";
      width = node.clientWidth;
      makeRoom(layout, width);
      try {
        // A node that is taken out of the page while it draws may never answer.
        await Promise.race([move ? movePoints(data) : Plotly.react(node, data, layout, options), late(5000)]);
      } catch (error) {
        console.error("rislab: a drawing failed and is made anew:", error);
        await Plotly.newPlot(node, data, layout, options);
        listening = false;
      }
      nameControls(el.closest(".rislab-panel") ?? el);
      if (!listening) { listen(); listening = true; }
      if (!told || Math.abs(number - answered) >= EVERY) {
        [answered, told] = [number, took];
        state.set({ drawn: number, took });
        state.save_changes();
      }
      requestAnimationFrame(() => setTimeout(() => { took = Math.ceil(performance.now() - began); }));
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
    const observer = new MutationObserver(() => show());
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    function take() {
      const moved = movesPoints(state.get("patch"), state.get("figure"));
      if (patched(state)) show(moved);
      else tell("lost", { number: state.get("figure").number });
    }
    const anew = () => show();
    state.on("change:figure", anew);
    state.on("change:patch", take);
    patched(state);
    await draw(); // the first time in any case: it takes its room
    const sight = new IntersectionObserver((entries) => {
      near = entries.at(-1).isIntersecting;
      catchUp();
    }, { rootMargin: NEAR, scrollMargin: NEAR });
    sight.observe(node);
    const size = new ResizeObserver(() => {
      if (node.clientWidth !== width) show();
    });
    size.observe(node);
    document.addEventListener("visibilitychange", catchUp);
    return () => {
      observer.disconnect();
      sight.disconnect();
      size.disconnect();
      document.removeEventListener("visibilitychange", catchUp);
      state.off("change:figure", anew);
      state.off("change:patch", take);
      Plotly.purge(node);
    };
  },
};
