// Feeds scene.js on a page without a kernel: every position of the sliders was computed before.
{
  const holder = document.currentScript.parentNode;
  const data = JSON.parse(holder.querySelector("script[type='application/json']").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)"), values = data.values;
  let onPaper = false;
  const nearest = (axis, name) =>
    axis.reduce((best, one, at) => (Math.abs(one - values[name]) < Math.abs(axis[best] - values[name]) ? at : best), 0);
  const content = (answers) => {
    const [row, column] = [nearest(data.snr_db, "snr_db"), nearest(data.separation, "separation")];
    return { ...data.shared, ...data.contents[row][column], values, answers, refused: {}, state: "complete" };
  };
  const view = rislabScene(holder.querySelector("div"), {
    groups: data.groups, look: data.look, parts: data.parts, dark: () => dark.matches && !onPaper,
    send(changed, coarse, request) { Object.assign(values, changed); view.show(content(request)); },
  });
  view.show(content(0));
  dark.addEventListener("change", view.repaint);
  for (const name of ["beforeprint", "afterprint"])
    addEventListener(name, () => { onPaper = name === "beforeprint"; view.repaintNow(); });
}
