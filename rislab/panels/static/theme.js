// Styles of the page itself: they hold for plain figures when the output that brought them is cleared or out of view.
(css) => {
  if (document.getElementById("rislab-theme")) return;
  const style = document.createElement("style");
  style.id = "rislab-theme";
  style.textContent = css;
  document.head.append(style);
}
