// plotly.js in the page, once for all plots of a kernel.
//
// anywidget gives up a model that is not ready within two seconds: its plot would never change again. So the five
// megabytes are a script of their own, which the browser compiles beside whatever else the page does.
export default {
  initialize({ model }) {
    if (globalThis.rislabPlotlyLoads) return;
    globalThis.rislabPlotlyLoads = true;
    // Wrapped, so that it finds neither a module loader nor globals of the page.
    globalThis.rislabModule = { exports: {} };
    const call = "\n}).call(globalThis, globalThis.rislabModule, globalThis);";
    const parts = ["(function (module, self) {", model.get("source"), call];
    const script = document.createElement("script");
    script.src = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
    script.onload = () => { globalThis.rislabPlotly = globalThis.rislabModule.exports; };
    document.head.appendChild(script);
  },
};
