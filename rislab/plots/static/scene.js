// Draws one scene and its maps from what scene_content() says, with the knobs around them: in a live panel, where the
// kernel answers, and on a page with everything computed before. No library, no WebGL: canvas and SVG.
//
// rislabScene(root, options) returns { show(content), repaint(), repaintNow(), dispose() }. Of the options, `send(values, coarse)` is
// called with what the user changed: at once while the last answer is there, and else when it comes.
function rislabScene(root, { groups, look, dark, send, parts = {} }) {
  const SVG = "http://www.w3.org/2000/svg", WAIT = 400, NEAR = 7, PLAN = 0.56; // PLAN: share of the view from above
  const DEGREE = Math.PI / 180;
  let content = null, request = 0, sent = 0, before = 0, sentAt = 0, dirty = false, coarse = false, playing = null;
  const changed = new Map(); // name → [value, number of the request that said it]
  const knobs = new Map();
  root.classList.add("rislab-scene");

  // ------------------------------------------------------------------------------------------------------ elements
  function put(parent, tag, attributes = {}, text = null) {
    const svg = parent.namespaceURI === SVG || tag === "svg";
    const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
    if (text !== null) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  const minus = (value, digits) => value.toFixed(digits).replace("-", "−");
  const value = (name) => (changed.has(name) ? changed.get(name)[0] : content?.values[name]);
  const place = (slot) => (changed.has(`place${slot}`) ? changed.get(`place${slot}`)[0] : content.places[slot]);
  const clamp = (x, [low, high]) => Math.min(Math.max(x, low), high);

  // ---------------------------------------------------------------------------------- what the user changes, to whom
  function change(name, next, roughly) {
    changed.delete(name); // so that the last change comes last
    changed.set(name, [next, request + 1]);
    request += 1;
    coarse = roughly;
    dirty = true;
    flush();
    paint();
  }
  function flush() {
    if (!dirty) return;
    // Two changes may be on their way: while one answer is painted, the next is computed.
    const waiting = content.answers < before && performance.now() - sentAt < WAIT;
    if (waiting && coarse) return;
    dirty = false;
    before = sent;
    sent = request;
    sentAt = performance.now();
    send(Object.fromEntries([...changed].map(([key, [one]]) => [key, one])), coarse, request);
  }
  let painted = 0; // width of the last painting: a page that changes its theme may have another one for a moment
  const ticking = setInterval(() => {
    if (content && performance.now() - sentAt > WAIT) flush();
    if (root.clientWidth !== painted) paint();
  }, 100);

  // ------------------------------------------------------------------------------------------------------- the knobs
  const bar = put(root, "div", { class: "knobs" });
  let serial = rislabScene.serial = (rislabScene.serial ?? 0) + 1;
  for (const { title, controls } of groups) {
    if (!controls.length) continue;
    const field = put(bar, "fieldset");
    put(field, "legend", {}, title);
    controls.forEach((control) => knobs.set(control.name, knob(field, control)));
  }
  function knob(field, control) {
    const { name, label, kind, min, max, step, stops, options, unit = "", help = "", play } = control;
    const id = `rislab-${serial}-${name}`, said = unit ? `${label} in ${unit}` : label;
    const box = put(field, "div", { class: `control ${kind === "range" ? "wide" : ""}` });
    const parse = (text) => (text.trim() === "" ? NaN : Number(text));
    const inputs = [];
    if (kind === "button") {
      const button = put(box, "button", { type: "button", title: help }, label);
      let presses = 0;
      button.onclick = () => change(name, (presses = Math.max(presses, value(name) ?? 0) + 1), false);
      return { set() {}, refuse() {} };
    }
    const tick = kind === "switch";
    const text = unit ? `${label} (${unit})` : label;
    if (!tick) put(box, "label", { for: id, title: help }, text);
    if (kind === "choice") {
      const select = put(box, "select", { id, "aria-label": said, title: help });
      options.forEach((one) => put(select, "option", { value: one }, one));
      select.onchange = () => change(name, select.value, false);
      inputs.push(select);
    } else if (tick) {
      const input = put(box, "input", { id, type: "checkbox", title: help });
      put(box, "label", { for: id, title: help }, text);
      input.onchange = () => change(name, input.checked, false);
      inputs.push(input);
    }
    if (kind === "range") {
      const limits = stops ? { min: 0, max: stops.length - 1, step: 1 } : { min, max, step };
      const slider = put(box, "input", { id, type: "range", ...limits, "aria-label": said, title: help });
      const at = () => (stops ? stops[Number(slider.value)] : Number(slider.value));
      slider.oninput = () => change(name, at(), true);
      slider.onchange = () => change(name, at(), false);
      inputs.push(slider);
      if (stops) inputs.push(put(box, "output", { for: id }));
    }
    if (kind === "number" || (kind === "range" && !stops)) {
      const short = Number.isInteger(step) ? { class: "short" } : {};
      const own = kind === "range" ? { "aria-label": `${said}, as a number` } : { id, "aria-label": said, ...short };
      const input = put(box, "input", { type: "number", step: "any", title: help, ...own });
      const take = () => change(name, parse(input.value), false);
      input.onchange = take;
      input.onkeydown = (event) => {
        if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
        event.preventDefault();
        input.value = Number((parse(input.value) + (event.key === "ArrowUp" ? step : -step)).toFixed(6));
        take();
      };
      inputs.push(input);
    }
    if (play) {
      const button = put(box, "button", { type: "button", "aria-pressed": "false",
        "aria-label": `play: sweep ${label}`, title: `sweep ${label} from end to end` }, "▶");
      button.onclick = () => (playing?.name === name ? halt() : begin({ ...control, button }));
    }
    const refusal = put(box, "div", { class: "refusal", id: `${id}-refusal`, role: "alert" });
    refusal.hidden = true;
    return {
      // A slider stands where the value in use is if it cannot show what was refused.
      set(now, used = now) {
        const shown = typeof now === "number" && min <= now && now <= max ? now : used;
        for (const input of inputs) {
          if (input.type === "checkbox") input.checked = now;
          else if (input.tagName === "OUTPUT") input.textContent = `${now}${unit ? ` ${unit}` : ""}`;
          else if (stops && input.type === "range") {
            input.value = stops.reduce((best, one, i) => Math.abs(one - now) < Math.abs(stops[best] - now) ? i : best, 0);
            input.setAttribute("aria-valuetext", `${now} ${unit}`);
          } else if (input !== document.activeElement || input.type !== "number" || !editing(input)) {
            const one = input.type === "range" ? shown : now;
            input.value = typeof one === "number" ? Number(Math.abs(one) < 0.01 ? one.toPrecision(3) : one.toFixed(3)) : one;
          }
        }
      },
      refuse(sentence) {
        refusal.hidden = !sentence;
        if (refusal.textContent !== (sentence ?? "")) {
          refusal.textContent = sentence ?? "";
          // Two sentences would lie upon each other: an older one is shown where its control is pointed at.
          if (sentence) for (const other of root.querySelectorAll(".refusal")) other.classList.toggle("old", other !== refusal);
          refusal.style.left = 0;
          const over = refusal.getBoundingClientRect().right - root.getBoundingClientRect().right + 4;
          if (over > 0) refusal.style.left = `${-over}px`;
        }
        for (const input of inputs) {
          input.setAttribute("aria-invalid", sentence ? "true" : "false");
          if (sentence) input.setAttribute("aria-describedby", refusal.id);
          else input.removeAttribute("aria-describedby");
        }
      },
    };
  }
  // What is being typed must not be written over.
  const typed = new WeakSet();
  const editing = (input) => typed.has(input);
  root.addEventListener("input", (event) => typed.add(event.target));
  root.addEventListener("change", (event) => typed.delete(event.target));
  root.addEventListener("focusout", (event) => typed.delete(event.target));

  // -------------------------------------------------------------------------------------------------------- the play
  function begin(control) {
    halt();
    playing = { ...control, turn: 1 };
    control.button.setAttribute("aria-pressed", "true");
    control.button.textContent = "❚❚";
    next();
  }
  function halt() {
    if (!playing) return;
    clearTimeout(playing.timer);
    playing.button.setAttribute("aria-pressed", "false");
    playing.button.textContent = "▶";
    const { name } = playing;
    playing = null;
    if (content) change(name, value(name), false);
  }
  function next() {
    const { name, min, max, play, stops } = playing;
    const now = value(name);
    let then;
    if (stops) {
      const at = stops.reduce((best, one, i) => Math.abs(one - now) < Math.abs(stops[best] - now) ? i : best, 0);
      if (at + playing.turn < 0 || at + playing.turn >= stops.length) playing.turn *= -1;
      then = stops[at + playing.turn];
    } else {
      const [low, high] = play === true ? [min, max] : play.between;
      const step = play === true ? (high - low) / 60 : play.step;
      if (now + playing.turn * step > high || now + playing.turn * step < low) playing.turn = now + step > high ? -1 : 1;
      then = clamp(Number((now + playing.turn * step).toFixed(6)), [low, high]);
    }
    change(name, then, true);
    playing.timer = setTimeout(again, stops ? 350 : 90);
  }
  function again() {
    if (!playing) return;
    if (content.answers < request && performance.now() - sentAt < 2000) playing.timer = setTimeout(again, 15);
    else next();
  }

  // ---------------------------------------------------------------------------------------------------------- sizes
  // Two columns, the room over the cut and the maps over the table; in a narrow window one, with the maps after the room.
  const views = put(root, "div", { class: "views" }), column = () => put(views, "div", { class: "column" });
  const [places, results] = [column(), column()];
  const room = parts.scene === false ? null : put(places, "div", { class: "room" });
  const cut = parts.cut === false ? null : put(places, "div", { class: "cut" });
  const maps = put(results, "div", { class: "maps" });
  const table = parts.table === false ? null : put(results, "div", { class: "table", role: "region", tabindex: "0",
    "aria-label": "estimates, errors and bound of each source" });
  const note = put(root, "div", { class: "note", "aria-live": "polite" });
  const drawn = new Map(); // of each map: canvas, svg, the data that the canvas shows

  const GAP = 8, AROUND = 142, HEAD = 17, LINE = 18, LEAST_CUT = 132; // pixels; AROUND of menus and margins of JupyterLab
  function sizes() {
    const width = Math.max(root.clientWidth - 8, 292), narrow = width < 620, single = narrow || !room;
    const [a, e] = [content.limits.azimuth, content.limits.elevation], aspect = (e[1] - e[0]) / (a[1] - a[0]);
    // As high as the window lets it be, so that all of it is on one screen.
    const high = Math.max(window.innerHeight - AROUND - bar.offsetHeight, 440);
    const least = clamp(0.27 * width, [270, 430]), widest = single ? width : width - GAP - least;
    const tableHigh = table ? LINE * (content.places.length + 2) : 0, leastCut = cut ? LEAST_CUT + HEAD : 0, count = Math.max(content.maps.length, 1);
    const grid = (columns) => {
      const rows = Math.ceil(count / columns), most = narrow ? Infinity : (high - tableHigh - (single ? leastCut : 0)) / rows - 38;
      return { columns, rows, inner: Math.min((widest + GAP) / columns - GAP - 48, most / aspect) };
    };
    // Of all ways to set the maps in rows the one with the largest; narrow windows scroll.
    const ways = narrow ? [grid(count > 1 && width > 420 ? 2 : 1)] : Array.from({ length: Math.min(count, 4) }, (_, i) => grid(i + 1));
    const best = ways.reduce((one, other) => (other.inner > one.inner + 1 ? other : one));
    // The room takes what the maps leave, and the cut ends where the table does.
    const needed = best.columns * (best.inner + 48 + GAP) - GAP;
    const left = single ? width : clamp(width - GAP - needed, [least, Math.max(0.4 * width, least)]);
    const mapHigh = best.inner * aspect, rightHigh = best.rows * (mapHigh + 38) + tableHigh;
    const roomHigh = single ? 0 : heightOfRoom(left, high - leastCut - 2 * HEAD);
    const cutHigh = single ? LEAST_CUT : clamp(rightHigh - roomHigh - 3 * HEAD, [LEAST_CUT, 260]);
    return { ...best, left, right: single ? width : width - left - GAP, high: mapHigh, roomHigh, cutHigh, narrow, single };
  }

  // ------------------------------------------------------------------------------------------------------- painting
  let asked = false;
  function paint() {
    if (asked || !content) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      if (drag?.moved) follow();
      else repaint();
    });
  }
  // Between two answers only the source under the pointer moves; the other views and the knobs follow with the maps.
  function follow() {
    const [x, y] = projections.get(drag.view)(place(drag.slot));
    for (const node of drag.svg.querySelectorAll(`.marks > [data-slot="${drag.slot}"]`))
      node.setAttribute("transform", `translate(${x - node.at[0]},${y - node.at[1]})`);
    drag.svg.querySelector(".marks").key = null;
  }
  function repaint() {
    root.classList.toggle("dark", dark());
    if (!content || !root.clientWidth) return;
    painted = root.clientWidth;
    for (const [name, one] of knobs) {
      const refused = changed.has(name) ? null : content.refused?.[name];
      one.set(refused ? refused[0] : value(name), value(name));
      one.refuse(refused ? refused[1] : null);
    }
    for (const group of groups) for (const control of group.controls)
      if (control.position && !changed.has(control.name) && !content.refused?.[control.name])
        knobs.get(control.name).set(place(value("chosen") - 1)?.[control.position - 1]);
    const size = sizes();
    views.classList.toggle("single", size.single);
    if (room) paintRoom(size);
    paintMaps(size);
    if (cut) paintCut(size);
    if (table) paintTable(size);
    if (note.words !== (content.note ?? "")) {
      note.innerHTML = note.words = content.note ?? "";
      if (note.words) note.scrollIntoView({ block: "nearest" }); // it stands below all that was on the screen
    }
    root.dataset.state = content.state;
    root.dataset.answers = content.answers;
  }

  // Of labels beside points: the first free side, so that no two lie upon each other.
  function labels(svg, points, bounds) {
    const taken = points.map(({ x, y }) => [x - NEAR, y - NEAR, x + NEAR, y + NEAR]);
    for (const { x, y, text, slot, reach = 10, halo } of points) {
      const width = 6.6 * text.length + 2, height = 12;
      const around = [[0, -reach - 3, "middle"], [reach + 2, 4, "start"], [-reach - 2, 4, "end"], [0, reach + 11, "middle"],
        [reach, -reach, "start"], [-reach, -reach, "end"], [reach, reach + 8, "start"], [-reach, reach + 8, "end"],
        [0, -reach - 16, "middle"], [0, reach + 24, "middle"], [reach + 16, 4, "start"], [-reach - 16, 4, "end"]];
      for (const [dx, dy, anchor] of around) {
        const left = x + dx - (anchor === "middle" ? width / 2 : anchor === "end" ? width : 0), top = y + dy - height + 2;
        const box = [left, top, left + width, top + height];
        if (box[0] < bounds[0] || box[1] < bounds[1] || box[2] > bounds[2] || box[3] > bounds[3]) continue;
        if (taken.some((one) => box[0] < one[2] && one[0] < box[2] && box[1] < one[3] && one[1] < box[3])) continue;
        taken.push(box);
        const label = put(svg, "text", { x: x + dx, y: y + dy, "text-anchor": anchor, "data-slot": slot,
          style: halo ? "fill:#fff;stroke:#111;stroke-width:2.5px;paint-order:stroke;pointer-events:none" : "pointer-events:none" }, text);
        label.at = [x, y];
        break;
      }
    }
  }

  // A source that can be dragged, in any of the views.
  function handle(svg, slot, view, [x, y], halo) {
    const [azimuth, elevation, range] = place(slot);
    const still = parts.drag === false;
    const about = `source ${slot + 1} ${view}: azimuth ${minus(azimuth, 1)}°, elevation ${minus(elevation, 1)}°, range ` +
      `${range.toFixed(2)} m`;
    const group = put(svg, "g", { class: `source ${still ? "still" : ""}`, "data-slot": slot, "data-view": view,
      ...(still ? { role: "img", "aria-label": about } : { tabindex: 0, role: "button",
        "aria-roledescription": "source that can be moved",
        "aria-label": `${about}; arrow keys move it, page up and page down change its range` }) });
    group.at = [x, y];
    const chosen = slot + 1 === value("chosen");
    put(group, "circle", { cx: x, cy: y, r: 12, fill: "transparent" });
    if (halo) put(group, "circle", { cx: x, cy: y, r: NEAR, fill: "none", stroke: "#111", "stroke-width": 3.6, opacity: 0.75 });
    put(group, "circle", { class: "ring", cx: x, cy: y, r: NEAR, fill: "none", stroke: halo ? "#fff" : "var(--ink)",
      "stroke-width": chosen ? 2.4 : 1.4 });
    return group;
  }
  function moved(slot, next, roughly) {
    const { azimuth, elevation, range } = content.limits;
    const round = (x, digits) => Number(x.toFixed(digits));
    change(`place${slot}`, [round(clamp(next[0], azimuth), 2), round(clamp(next[1], elevation), 2),
      round(clamp(next[2], range), 3)], roughly);
  }
  // A source that was moved by accident can be put back, by a button and by Ctrl+Z, through all moves made here.
  const past = []; // [slot, place before the move]
  const undone = () => past.findLast(([slot]) => slot < content.places.length);
  function undo() {
    const last = undone();
    if (!last) return;
    past.length = past.lastIndexOf(last);
    change(`place${last[0]}`, last[1], false);
  }
  let drag = null;
  const converters = new Map(); // view → from a point of its SVG to a place
  const projections = new Map(); // and back
  root.addEventListener("pointerdown", (event) => {
    const source = event.target.closest?.(".source");
    if (!source || parts.drag === false || event.button) return;
    event.preventDefault();
    source.focus({ preventScroll: true });
    drag = { slot: Number(source.dataset.slot), view: source.dataset.view, svg: source.ownerSVGElement, moved: false };
    try { root.setPointerCapture(event.pointerId); } catch { drag.free = true; }
  });
  root.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const box = drag.svg.getBoundingClientRect();
    if (!drag.moved) past.push([drag.slot, place(drag.slot)]);
    drag.moved = true;
    moved(drag.slot, converters.get(drag.view)(event.clientX - box.left, event.clientY - box.top, place(drag.slot)), true);
  });
  for (const name of ["pointerup", "pointercancel"]) root.addEventListener(name, () => {
    if (!drag) return;
    const { slot } = drag;
    drag = null;
    change(`place${slot}`, place(slot), false);
  });
  root.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z" && !event.target.matches("input, select")) {
      event.preventDefault();
      event.stopPropagation();
      if (!drag) undo();
    }
    const source = event.target.closest?.(".source");
    if (!source || parts.drag === false) return;
    const step = event.shiftKey ? 5 : 0.5, by = { ArrowLeft: [-step, 0, 0], ArrowRight: [step, 0, 0], ArrowUp: [0, step, 0],
      ArrowDown: [0, -step, 0], PageUp: [0, 0, 0.1], PageDown: [0, 0, -0.1] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const slot = Number(source.dataset.slot);
    if (!event.repeat) past.push([slot, place(slot)]);
    moved(slot, place(slot).map((one, i) => one + by[i]), false);
  });

  // A layer of a view is drawn anew only if what it shows is new; the source that has the focus gets it back.
  function layer(svg, name, key, draw) {
    const node = svg.querySelector(`:scope > .${name}`) ?? put(svg, "g", { class: name });
    const text = JSON.stringify(key);
    if (node.key === text) return;
    node.key = text;
    const focus = node.contains(document.activeElement) ? document.activeElement.dataset?.slot : null;
    node.replaceChildren();
    draw(node);
    if (focus !== null) node.querySelector(`.source[data-slot="${focus}"]`)?.focus({ preventScroll: true });
  }
  function resize(svg, width, height) {
    if (svg.size === `${width} ${height}`) return;
    svg.size = `${width} ${height}`;
    for (const [name, one] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(name, one);
  }
  const text = (node, words) => { if (node.textContent !== words) node.textContent = words; };
  const everywhere = () => content.places.map((_, slot) => place(slot));
  function svgOf(parent, name, title) {
    let box = parent.querySelector(`:scope > .${name}`);
    if (!box) {
      box = put(parent, "div", { class: name });
      const head = put(box, "div", { class: "title" });
      put(head, "span", {}, title);
      put(head, "span", { class: "aside" });
      put(box, "svg", { role: "group", "aria-label": title });
    }
    return box.querySelector(":scope > svg");
  }
  const aside = (svg, words) => text(svg.parentNode.querySelector(".aside"), words);

  // ------------------------------------------------------------------------------------- the room, from above and beside
  // Both views together, without their titles: as high as the one from above is when it fills the width.
  function heightOfRoom(left, most) {
    const [low, high] = content.limits.azimuth.map((angle) => angle * DEGREE);
    return clamp(((left - 44) / (Math.sin(high) - Math.sin(low)) + 38) / PLAN, [270, Math.max(most, 270)]);
  }
  function paintRoom({ left, roomHigh, narrow }) {
    room.style.width = `${left}px`;
    room.classList.toggle("across", narrow);
    const far = content.limits.range[1];
    wedge("plan", "from above", narrow ? 0.58 * left : left, narrow ? 170 : PLAN * roomHigh, content.limits.azimuth, far, 0);
    wedge("side", "from the side", narrow ? 0.42 * left - 8 : left, narrow ? 170 : (1 - PLAN) * roomHigh, content.limits.elevation, far, 1);
  }
  function wedge(name, title, width, height, limits, far, index) {
    const svg = svgOf(room, name, title);
    resize(svg, width, height);
    const [low, high] = limits.map((angle) => angle * DEGREE);
    const above = name === "plan";
    // Ahead is up from above, and to the right from the side; the surface stands at the origin.
    const reach = above ? Math.min((width - 44) / (Math.sin(high) - Math.sin(low)), height - 38)
      : Math.min(width - 70, (height - 26) / (Math.sin(high) - Math.sin(low)));
    const origin = above ? [width / 2, height - 22] : [46, height / 2];
    const at = (angle, r) => {
      const along = reach * r / far * Math.cos(angle), aside_ = reach * r / far * Math.sin(angle);
      return above ? [origin[0] + aside_, origin[1] - along] : [origin[0] + along, origin[1] - aside_];
    };
    layer(svg, "fixed", [width, height, limits, far, content.surface, content.antennas],
      (group) => paintWalls(group, { above, width, height, low, high, far, reach, origin, at, index }));
    projections.set(name, ([azimuth, elevation, r]) => at((above ? azimuth : elevation) * DEGREE, r));
    converters.set(name, (x, y, [azimuth, elevation]) => {
      const along = above ? origin[1] - y : x - origin[0], aside_ = above ? x - origin[0] : origin[1] - y;
      const angle = Math.atan2(aside_, Math.max(along, 1e-6)) / DEGREE, r = Math.hypot(along, aside_) / reach * far;
      return above ? [angle, elevation, r] : [azimuth, angle, r];
    });
    const peaks = shownPeaks(), back = room.querySelector(".undo");
    if (back) back.style.visibility = undone() ? "visible" : "hidden";
    layer(svg, "marks", [width, height, everywhere(), value("chosen"), peaks], (group) => {
      const points = [];
      if (parts.truth !== false) everywhere().forEach(([azimuth, elevation, r], slot) => {
        const point = projections.get(name)([azimuth, elevation, r]);
        handle(group, slot, name, point, false);
        points.push({ x: point[0], y: point[1], slot, text: `${slot + 1}` });
      });
      for (const peak of peaks) cross(group, at((above ? peak[0] : peak[1]) * DEGREE, peak[2]), false);
      labels(group, points, [0, 0, width, height - (above ? 18 : 0)]);
    });
  }
  function paintWalls(group, { above, width, height, low, high, far, reach, origin, at, index }) {
    const axis = put(group, "g", { class: "axis" });
    const arc = (r) => Array.from({ length: 25 }, (_, i) => at(low + (high - low) * i / 24, r).map((x) => x.toFixed(1))).join(" L");
    put(axis, "path", { d: `M${origin} L${at(low, far)} L${arc(far)} Z`, style: "fill:var(--fill)" });
    const marks = [0.2, 0.4, 0.6, 0.8, 1].map((share) => Number((share * far).toPrecision(2)));
    for (const r of marks) put(axis, "path", { d: `M${arc(r)}`, "stroke-dasharray": r === far ? null : "2 3" });
    // The surface, seen along its edge; and the base station that hears what it reflects, wherever that stands.
    const half = Math.max(0.5 * content.surface[index] / far * reach, 8);
    const ends = above ? [[origin[0] - half, origin[1]], [origin[0] + half, origin[1]]]
      : [[origin[0], origin[1] - half], [origin[0], origin[1] + half]];
    put(group, "line", { x1: ends[0][0], y1: ends[0][1], x2: ends[1][0], y2: ends[1][1], style: "stroke:var(--accent);stroke-width:5" });
    const station = above ? [14, height - 22] : [14, height / 2];
    const wire = `M${station} L${above ? ends[0] : [origin[0] - 3, origin[1]]}`;
    put(group, "path", { d: wire, style: "stroke:var(--soft);stroke-dasharray:3 3;fill:none" });
    for (let i = 0; i < 4; i++) {
      const [x, y] = above ? [5 + 6 * i, station[1] - 5] : [station[0] - 4, station[1] - 9 + 6 * i];
      put(group, "path", { d: `M${x},${y} ${above ? "v8" : "h8"}`, style: "stroke:var(--ink);stroke-width:1.5" });
    }
    if (above) {
      put(group, "text", { x: 2, y: height - 5 }, `${content.antennas} antennas`);
      put(group, "text", { x: origin[0], y: height - 5, "text-anchor": "middle" }, "surface");
      if (parts.drag !== false && !room.querySelector(".undo")) {
        const about = { title: "put the source that was moved last back (Ctrl+Z)", "aria-label": "undo the last move of a source" };
        put(room.querySelector(".title"), "button", { type: "button", class: "undo", ...about }, "undo").onclick = undo;
      }
      aside(group.ownerSVGElement, `${parts.drag === false ? "" : "drag; "}arcs every ${marks[0]} m`);
    }
  }
  const chosenMap = () => content.maps.find((map) => map.name === value("covariance")) ?? content.maps[0];
  const shownPeaks = () => (parts.estimates === false ? [] : chosenMap()?.peaks ?? []);
  // Four strokes around an estimate: its peak itself stays free.
  function cross(svg, [x, y], halo) {
    const d = [[1, 0], [-1, 0], [0, 1], [0, -1]].map(([a, b]) => `M${x + 3 * a},${y + 3 * b} L${x + 9 * a},${y + 9 * b}`).join(" ");
    if (halo) put(svg, "path", { d, style: "stroke:#111;stroke-width:4;opacity:.7;pointer-events:none" });
    put(svg, "path", { class: "estimate", d, style: `stroke:${halo ? "#ffb27a" : "#D55E00"};stroke-width:2;pointer-events:none` });
  }

  // ------------------------------------------------------------------------------------------------------------ maps
  function bytes(text) {
    const plain = atob(text), out = new Uint8Array(plain.length);
    for (let i = 0; i < plain.length; i++) out[i] = plain.charCodeAt(i);
    return out;
  }
  const ramp = look.ramp.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const palette = (() => {
    const out = new Uint32Array(256);
    for (let i = 0; i < 256; i++) {
      const along = i / 255 * (ramp.length - 1), at = Math.min(Math.floor(along), ramp.length - 2), part = along - at;
      const [r, g, b] = [0, 1, 2].map((k) => Math.round(ramp[at][k] + part * (ramp[at + 1][k] - ramp[at][k])));
      out[i] = 0xff000000 | (b << 16) | (g << 8) | r;
    }
    return out;
  })();
  const depth = (map) => Math.max(0.01, (value("depth") ?? 100) / 100 * -map.spread);
  function paintHeat(canvas, map) {
    const key = `${map.data.length}|${depth(map)}|${map.low}`;
    if (canvas.source === map.data && canvas.key === key) return;
    canvas.source = map.data;
    canvas.key = key;
    const [across, down] = map.shape, values = bytes(map.data);
    canvas.width = across;
    canvas.height = down;
    const context = canvas.getContext("2d"), image = context.createImageData(across, down);
    const pixels = new Uint32Array(image.data.buffer), range = depth(map), colours = new Uint32Array(256);
    // 255 is the peak, 0 is map.low dB below it.
    for (let i = 0; i < 256; i++) {
      const level = map.low * (1 - i / 255);
      colours[i] = palette[Math.max(0, Math.min(255, Math.round(255 * (1 + level / range))))];
    }
    for (let q = 0; q < down; q++) for (let p = 0; p < across; p++) pixels[(down - 1 - q) * across + p] = colours[values[p * down + q]];
    context.putImageData(image, 0, 0);
  }
  function paintMaps({ right, columns, inner, high }) {
    maps.style.width = `${right}px`;
    maps.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    const names = content.maps.map((map) => map.name);
    for (const [name, one] of drawn) if (!names.includes(name)) { one.box.remove(); drawn.delete(name); }
    content.maps.forEach((map, number) => {
      if (!drawn.has(map.name)) {
        const box = put(maps, "div", { class: "one" });
        const head = put(box, "div", { class: "title" });
        const body = put(box, "div", { class: "map" });
        drawn.set(map.name, { box, name: put(head, "span"), aside: put(head, "span", { class: "aside" }), body,
          canvas: put(body, "canvas", { "aria-hidden": "true" }), svg: put(body, "svg", { role: "group" }) });
      }
      const one = drawn.get(map.name), at = { left: 42, top: 2 };
      one.box.style.order = number;
      text(one.name, map.title);
      paintScale(one, map);
      one.body.classList.toggle("stale", map.stale);
      one.name.style.textDecoration = map.name === value("covariance") && content.maps.length > 1 ? "underline" : "none";
      Object.assign(one.canvas.style, { left: `${at.left}px`, top: `${at.top}px`, width: `${inner}px`, height: `${high}px` });
      paintHeat(one.canvas, map);
      const width = at.left + inner + 6, height = at.top + high + 18, { azimuth, elevation } = content.limits;
      one.svg.setAttribute("aria-label", `map of ${map.title} over azimuth and elevation`);
      resize(one.svg, width, height);
      const x = (angle) => at.left + (angle - azimuth[0]) / (azimuth[1] - azimuth[0]) * inner;
      const y = (angle) => at.top + (elevation[1] - angle) / (elevation[1] - elevation[0]) * high;
      layer(one.svg, "fixed", [inner, high, azimuth, elevation], (group) => paintAxes(group, at, inner, high, x, y));
      const peaks = map.stale || parts.estimates === false ? [] : map.peaks ?? [];
      layer(one.svg, "marks", [inner, high, everywhere(), value("chosen"), peaks, content.ellipses, map.cloud], (group) =>
        paintMarks(group, map, peaks, x, y, [at.left, at.top, at.left + inner, at.top + high]));
      projections.set(`map ${map.name}`, ([a, e]) => [x(a), y(e)]);
      converters.set(`map ${map.name}`, (px, py, [, , range]) => [
        azimuth[0] + (px - at.left) / inner * (azimuth[1] - azimuth[0]),
        elevation[1] - (py - at.top) / high * (elevation[1] - elevation[0]), range]);
    });
  }
  function paintScale({ aside }, map) {
    const words = map.stale ? "of an earlier scene, follows at rest" : `−${depth(map).toFixed(depth(map) < 10 ? 1 : 0)} dB`;
    if (aside.words === words) return;
    aside.words = words;
    aside.replaceChildren(words);
    if (map.stale) return;
    put(aside, "span", { class: "scale", style: `background:linear-gradient(90deg,${look.ramp})`, "aria-hidden": "true" });
    aside.append("0 dB");
  }
  function paintAxes(group, at, inner, high, x, y) {
    const axis = put(group, "g", { class: "axis" }), { azimuth, elevation } = content.limits;
    put(axis, "rect", { x: at.left, y: at.top, width: inner, height: high });
    for (let i = 0; i < 5; i++) {
      const a = azimuth[0] + (azimuth[1] - azimuth[0]) / 4 * i, last = i === 4;
      put(axis, "line", { x1: x(a), x2: x(a), y1: at.top + high, y2: at.top + high + 3 });
      if (i !== 3 || inner > 330) put(axis, "text", { x: x(a), y: at.top + high + 14, "text-anchor": last ? "end" : "middle" },
        last ? "azimuth (°)" : minus(a, 0));
      const e = elevation[0] + (elevation[1] - elevation[0]) / 4 * i;
      put(axis, "line", { x1: at.left - 3, x2: at.left, y1: y(e), y2: y(e) });
      if (i && i < 4) put(axis, "text", { x: at.left - 5, y: y(e) + 4, "text-anchor": "end" }, minus(e, 0));
    }
    const turned = { x: 12, y: at.top + high / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${at.top + high / 2})` };
    put(axis, "text", turned, high > 90 ? "elevation (°)" : "elev. (°)");
  }
  function paintMarks(svg, map, peaks, x, y, bounds) {
    if (map.cloud && parts.estimates !== false) {
      const d = map.cloud.map(([a, e]) => `M${(x(a) - 0.75).toFixed(1)},${y(e).toFixed(1)} h1.5`).join(" ");
      put(svg, "path", { class: "cloud", d, style: "stroke:#fff;stroke-width:1.5;opacity:.7;pointer-events:none" });
    }
    if (parts.bound !== false && parts.truth !== false) for (const outline of content.ellipses ?? []) {
      const d = outline.map(([a, e], i) => `${i ? "L" : "M"}${x(a).toFixed(1)},${y(e).toFixed(1)}`).join(" ");
      put(svg, "path", { d: `${d} Z`, style: "stroke:#56B4E9;stroke-width:1.5;fill:none;pointer-events:none" });
    }
    const points = [];
    if (parts.truth !== false) everywhere().forEach(([azimuth, elevation], slot) => {
      const point = [x(azimuth), y(elevation)];
      handle(svg, slot, `map ${map.name}`, point, true);
      points.push({ x: point[0], y: point[1], slot, text: `${slot + 1}`, halo: true });
    });
    for (const [a, e] of peaks) cross(svg, [x(a), y(e)], true);
    labels(svg, points, bounds);
  }

  // ------------------------------------------------------------------------------------------------------- range cut
  function paintCut({ left, cutHigh: height }) {
    cut.style.width = `${left}px`;
    const slot = value("chosen") - 1, at = { left: 46, top: 4, right: left - 8, bottom: height - 30 };
    const svg = svgOf(cut, "range", "");
    resize(svg, left, height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `spectra over the range in the direction of source ${slot + 1}`);
    const key = [left, height, slot, place(slot)?.[2], content.reach, content.maps.map((map) => [map.name, map.stale, map.cut.data, map.cut.low]),
      value("covariance")];
    layer(svg, "marks", key, (group) => paintCurves(group, svg, slot, at, height));
  }
  function paintCurves(svg, whole, slot, at, height) {
    const [near, far] = content.limits.range;
    const x = (r) => at.left + (1 / r - 1 / far) / (1 / near - 1 / far) * (at.right - at.left);
    const shown = content.maps.filter((map) => map.cut && !map.stale);
    // As deep as the curve of the table's estimator; others may leave the frame.
    const deepest = -(chosenMap()?.stale ? shown[0] : chosenMap() ?? shown[0])?.cut.low || 1;
    const y = (level) => at.top + -level / deepest * (at.bottom - at.top);
    const axis = put(svg, "g", { class: "axis" });
    put(axis, "rect", { x: at.left, y: at.top, width: at.right - at.left, height: at.bottom - at.top });
    let last = -100;
    for (const r of [far, 10, 7, 5, 4, 3, 2.5, 2, 1.5, 1.2, 1, 0.8, 0.7, 0.6, 0.5, near].filter((r) => r <= far && r >= near)) {
      if (x(r) - last < 30) continue;
      last = x(r);
      put(axis, "line", { x1: x(r), x2: x(r), y1: at.bottom, y2: at.bottom + 3 });
      put(axis, "text", { x: x(r), y: at.bottom + 14, "text-anchor": "middle" }, `${r}`);
    }
    put(axis, "text", { x: (at.left + at.right) / 2, y: height - 4, "text-anchor": "middle" }, `range of source ${slot + 1} (m), uniform in 1/r`);
    for (const share of [0, 0.5, 1]) put(axis, "text", { x: at.left - 4, y: y(-deepest * share) + (share === 0 ? 9 : share === 1 ? 0 : 4),
      "text-anchor": "end" }, minus(-deepest * share, deepest < 10 ? 1 : 0));
    put(axis, "text", { x: 12, y: (at.top + at.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(at.top + at.bottom) / 2})` }, "dB");
    if (parts.truth !== false && place(slot)) {
      const here = x(place(slot)[2]);
      if (content.reach?.[slot] && parts.bound !== false) {
        const [a, b] = [place(slot)[2] + content.reach[slot], place(slot)[2] - content.reach[slot]].map((r) => x(clamp(r, [near, far])));
        put(svg, "rect", { x: a, y: at.top, width: Math.max(b - a, 0.5), height: at.bottom - at.top, fill: "rgba(86,180,233,.25)" });
      }
      put(svg, "line", { x1: here, x2: here, y1: at.top, y2: at.bottom, style: "stroke:var(--soft);stroke-dasharray:4 3" });
    }
    const legend = [], [across, down] = [at.right - at.left, at.bottom - at.top];
    const frame = put(svg, "svg", { x: at.left, y: at.top, width: across, height: down,
      viewBox: `${at.left} ${at.top} ${across} ${down}` });
    for (const map of shown) {
      const values = bytes(map.cut.data), count = values.length;
      const d = Array.from(values, (v, i) => {
        const px = at.left + (i / (count - 1)) * across;
        return `${i ? "L" : "M"}${px.toFixed(1)},${y(map.cut.low * (1 - v / 255)).toFixed(1)}`;
      }).join(" ");
      put(frame, "path", { d, style: `stroke:${map.colour};stroke-width:1.8;fill:none;stroke-dasharray:${map.dash}` });
      legend.push([map.name, map.colour, map.dash]);
    }
    const key = whole.parentNode.querySelector(".aside"), words = JSON.stringify(legend);
    if (key.words !== words) {
      key.words = words;
      key.replaceChildren();
      for (const [title, colour, dash] of legend) {
        const entry = put(key, "span", { style: "margin-right:6px;white-space:nowrap" });
        const mark = put(entry, "svg", { width: 14, height: 8, "aria-hidden": "true", style: "display:inline-block;vertical-align:1px;margin-right:3px" });
        put(mark, "line", { x1: 0, x2: 14, y1: 5, y2: 5, style: `stroke:${colour};stroke-width:2;stroke-dasharray:${dash}` });
        entry.append(title);
      }
    }
  }

  // ----------------------------------------------------------------------------------------------------------- table
  function paintTable({ right }) {
    table.style.width = `${right}px`;
    const map = chosenMap(), rows = (!map?.stale && map?.rows) || content.places.map(() => null);
    const key = JSON.stringify([rows, map?.title, value("chosen")]);
    if (table.key === key) return;
    table.key = key;
    const bare = parts.truth === false, columns = ["estimate", ...(bare ? [] : ["error"]), ...(bare || parts.bound === false ? [] : ["bound"])];
    table.replaceChildren();
    const one = put(table, "table"), head = put(one, "thead"), top = put(head, "tr"), under = put(head, "tr");
    put(top, "th", { scope: "col", style: "text-align:left" }, map ? map.by : "");
    for (const group of ["azimuth (°)", "elevation (°)", "range (m)"]) put(top, "th", { class: "group", colspan: columns.length, scope: "colgroup" }, group);
    put(under, "th", { scope: "col", style: "text-align:left" }, "source");
    for (let i = 0; i < 3; i++) for (const name of columns) put(under, "th", { scope: "col" }, name);
    const body = put(one, "tbody");
    rows.forEach((row, slot) => {
      const line = put(body, "tr", { class: slot + 1 === value("chosen") && !bare ? "chosen" : "" });
      put(line, "th", { scope: "row" }, `${slot + 1}`);
      if (row === "missed") { put(line, "td", { colspan: 3 * columns.length, style: "text-align:left" }, "no estimate within reach of this source"); return; }
      for (let i = 0; i < 3; i++) columns.forEach((_, k) => put(line, "td", {}, row ? row[3 * i + k] : "…"));
    });
  }

  // --------------------------------------------------------------------------------------------------------- the rest
  const resized = new ResizeObserver(paint);
  resized.observe(root);
  window.addEventListener("resize", paint);
  return {
    show(next) {
      content = next;
      if (playing && content.refused?.[playing.name]) halt(); // it would go on for ever, and show nothing
      request = Math.max(request, content.answers); // of a page that was loaded again
      for (const [name, [, number]] of changed) if (number <= content.answers) changed.delete(name);
      repaint();
      flush();
    },
    repaint: paint,
    repaintNow: repaint, // before a page is printed no frame comes
    dispose() { halt(); clearInterval(ticking); resized.disconnect(); window.removeEventListener("resize", paint); },
  };
}
