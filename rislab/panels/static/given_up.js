// Shows again what JupyterLab gave up while a page was loaded again.
//
// A view asks ten times a second for its model, and after two seconds not once more (get_model() of ipywidgets 8.1). If
// the models of the kernel come just then, it says "model not found" for good, though its model is there.
const VIEW = "application/vnd.jupyter.widget-view+json", SENTENCE = "Error displaying widget: model not found";
function late(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}
function isGivenUp() {
  const nodes = [...document.querySelectorAll(".jupyter-widgets")];
  return nodes.some((node) => !node.childElementCount && node.textContent === SENTENCE);
}
async function showAgain(manager) {
  const tried = new Set();
  for (let looks = 0; looks < 100; looks++) {
    await late(300); // the last view gives up two seconds after the models have come, and later in a busy page
    if (!isGivenUp()) continue;
    for (const cell of manager.context.model.cells) {
      for (let place = 0; place < (cell.outputs?.length ?? 0); place++) {
        const output = cell.outputs.get(place), id = output.data[VIEW]?.model_id;
        if (!id || tried.has(id) || !manager.has_model(id)) continue;
        tried.add(id);
        const { views } = await manager.get_model(id);
        if (!Object.keys(views ?? {}).length) output.setData({ data: output.data });
      }
    }
  }
}
export default {
  initialize({ model }) {
    const manager = model.widget_manager;
    if (!manager.restored || !manager.context?.model?.cells) return; // no notebook of JupyterLab
    manager.restored.connect(() => { showAgain(manager); });
    if (manager.restoredStatus) showAgain(manager);
  },
};
