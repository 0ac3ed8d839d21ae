// plotly.js in the page, once for all plots of a kernel.
export default {
  initialize({ model }) {
    // Later, since a model that is not ready within two seconds is given up, and this compiles five megabytes.
    setTimeout(() => {
      if (globalThis.rislabPlotly) return;
      const module = { exports: {} };
      new Function("module", "self", model.get("source"))(module, globalThis);
      globalThis.rislabPlotly = module.exports;
    }, 0);
  },
};
