// Feeds scene.js from the kernel. What changes is a model of its own (PlotState), see plot.js.
export default {
  async render({ model, el }) {
    const state = await model.widget_manager.get_model(model.get("state").slice("IPY_MODEL_".length));
    const style = document.createElement("style");
    const root = document.createElement("div");
    style.textContent = model.get("css");
    el.append(style, root);
    const dark = () => document.body.dataset.jpThemeLight === "false";
    const send = (values, coarse, request) => {
      state.set("event", { kind: "change", values, coarse, request, at: Date.now() });
      state.save_changes();
    };
    const view = rislabScene(root, { ...model.get("options"), dark, send });
    let took = 0; // milliseconds that the last drawing took
    function draw() {
      const began = performance.now(), content = structuredClone(state.get("figure"));
      if (!content.maps) return;
      // With what the user has changed meanwhile, in one message: JupyterLab redraws its own bars for each.
      state.set({ drawn: content.number, took });
      view.show(content);
      state.save_changes();
      requestAnimationFrame(() => setTimeout(() => { took = Math.ceil(performance.now() - began); }));
    }
    const observer = new MutationObserver(view.repaint);
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    state.on("change:figure", draw);
    draw();
    return () => { observer.disconnect(); state.off("change:figure", draw); view.dispose(); };
  },
};
