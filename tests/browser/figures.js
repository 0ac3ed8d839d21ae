// What is wrong with one plotly figure as the browser painted it, as sentences: text upon text, text upon data, text
// cut off, ticks without room, legends, contrast.
// `image` is one of it without texts, in which it begins at `corner`.
(plot, image, corner) => {
  const frame = plot.getBoundingClientRect(), layout = plot._fullLayout, wrong = [];
  const say = (kind, ...what) => wrong.push(`${kind}: ${what.map((one) => one.trim().slice(0, 60)).join(" | ")}`);

  // ---- boxes, as four corners on the screen
  const corners = (node, shrink = 0) => {
    const { x, y, width, height } = node.getBBox(), matrix = node.getScreenCTM();
    const cut = shrink * height, points = [[x, y + cut], [x + width, y + cut], [x + width, y + height - cut], [x, y + height - cut]];
    return points.map(([a, b]) => new DOMPoint(a, b).matrixTransform(matrix));
  };
  const bounds = (box) => {
    const around = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
    for (const { x, y } of box) {
      if (x < around.left) around.left = x;
      if (x > around.right) around.right = x;
      if (y < around.top) around.top = y;
      if (y > around.bottom) around.bottom = y;
    }
    return around;
  };
  const rectangle = ({ left, right, top, bottom }) =>
    [[left, top], [right, top], [right, bottom], [left, bottom]].map(([x, y]) => new DOMPoint(x, y));
  // Whether two boxes that are not turned lie apart; then nothing else need be asked of what is within them.
  const isApart = (one, other) =>
    one.left > other.right || other.left > one.right || one.top > other.bottom || other.top > one.bottom;
  // How far two convex boxes reach into each other along the direction in which they do least; ≤ 0 if they are apart.
  const depth = (one, other) => {
    let least = Infinity;
    for (const box of [one, other]) {
      for (let i = 0; i < box.length; i++) {
        const a = box[i], b = box[(i + 1) % box.length], length = Math.hypot(b.x - a.x, b.y - a.y);
        if (length < 0.01) continue;
        const along = (point) => (point.x * (a.y - b.y) + point.y * (b.x - a.x)) / length;
        const first = one.map(along), second = other.map(along);
        const common = Math.min(Math.max(...first), Math.max(...second)) - Math.max(Math.min(...first), Math.min(...second));
        least = Math.min(least, common);
      }
    }
    return least;
  };

  // ---- colours
  const parsed = (text) => {
    // Of a pattern, the colour that it is painted upon.
    const pattern = text.match(/url\("?#([^")]+)/), under = pattern && document.getElementById(pattern[1])?.querySelector("rect");
    if (pattern) return under ? parsed(getComputedStyle(under).fill) : null;
    const parts = text.match(/[\d.]+/g)?.map(Number);
    return text === "none" || !parts ? null : { rgb: parts.slice(0, 3), alpha: parts[3] ?? 1 };
  };
  const opacities = new Map([[plot, 1]]);
  const opacity = (node) => {
    if (!opacities.has(node)) opacities.set(node, Number(getComputedStyle(node).opacity) * opacity(node.parentElement));
    return opacities.get(node);
  };
  const over = ({ rgb, alpha }, ground) => rgb.map((part, i) => alpha * part + (1 - alpha) * ground[i]);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((part) => part / 255).map((p) => p <= 0.04045 ? p / 12.92 : ((p + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const canvas = new OffscreenCanvas(Math.round(frame.width), Math.round(frame.height));
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, ...corner.map((part) => -Math.round(part)));
  const pixels = ({ left, right, top, bottom }) => {
    const x = Math.max(0, Math.round(left - frame.left)), y = Math.max(0, Math.round(top - frame.top));
    const width = Math.min(canvas.width - x, Math.round(right - left)), height = Math.min(canvas.height - y, Math.round(bottom - top));
    if (width < 1 || height < 1) return [];
    const { data } = pen.getImageData(x, y, width, height);
    return Array.from({ length: width * height }, (_, i) => [data[4 * i], data[4 * i + 1], data[4 * i + 2]]);
  };
  const counted = (list) => {
    const counts = new Map();
    for (const [r, g, b] of list) counts.set((r << 16) | (g << 8) | b, (counts.get((r << 16) | (g << 8) | b) ?? 0) + 1);
    return [...counts].map(([key, count]) => [[key >> 16, (key >> 8) & 255, key & 255], count]);
  };
  const commonest = (list) => counted(list).sort((a, b) => b[1] - a[1])[0]?.[0] ?? [255, 255, 255];

  const paper = pixels({ left: frame.left + 2, right: frame.left + 3, top: frame.top + 2, bottom: frame.top + 3 })[0];

  // ---- texts, line by line
  const isPainted = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && opacity(node) > 0.05;
  const texts = [...plot.querySelectorAll(".main-svg text")].filter((node) => node.textContent.trim() && isPainted(node))
    .flatMap((node) => {
      const lines = node.querySelectorAll("tspan.line");
      return [...(lines.length ? lines : [node])].filter((line) => line.textContent.trim()).map((line) => {
        const style = getComputedStyle(line), box = corners(line, 0.16);
        return { node, line, box, inside: bounds(box), size: parseFloat(style.fontSize), text: line.textContent, style };
      });
    });
  texts.forEach((one, i) => texts.slice(i + 1).forEach((other) => {
    if (one.node !== other.node && !isApart(one.inside, other.inside) && depth(one.box, other.box) > 1) say("text upon text", one.text, other.text);
  }));

  // ---- what is drawn
  const subplots = Object.entries(layout._plots ?? {}).map(([id, { xaxis, yaxis }]) => ({
    id,
    rows: plot.querySelectorAll(`.cartesianlayer .subplot.${id}, .cartesianlayer .overplot .${id}`),
    area: {
      left: frame.left + xaxis._offset, right: frame.left + xaxis._offset + xaxis._length,
      top: frame.top + yaxis._offset, bottom: frame.top + yaxis._offset + yaxis._length,
    },
  }));
  const isWithin = ({ left, right, top, bottom }, { x, y }, room) =>
    x > left - room && x < right + room && y > top - room && y < bottom + room;
  // Points on the screen along a path, at most two pixels apart.
  const pointsAlong = (node) => {
    const matrix = node.getScreenCTM(), path = node.getAttribute("d"), points = [];
    const add = (x, y) => points.push({ x: matrix.a * x + matrix.c * y + matrix.e, y: matrix.b * x + matrix.d * y + matrix.f });
    if (/^(?:[ML][-\d.e, ]+|[HV][-\d.e]+|Z)+$/.test(path)) {
      let x = 0, y = 0, first = [0, 0];
      const straight = (toX, toY) => {
        const count = Math.ceil(Math.hypot(toX - x, toY - y) / 2);
        for (let i = 1; i <= count; i++) add(x + (toX - x) * i / count, y + (toY - y) * i / count);
        [x, y] = [toX, toY];
      };
      for (const [, letter, rest] of path.matchAll(/([MLHVZ])([^MLHVZ]*)/g)) {
        const numbers = rest.match(/-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?/g)?.map(Number) ?? [];
        if (letter === "Z") straight(...first);
        else if (letter === "H") straight(numbers[0], y);
        else if (letter === "V") straight(x, numbers[0]);
        else for (let i = 0; i < numbers.length; i += 2) {
          if (letter === "L" || i) straight(numbers[i], numbers[i + 1]);
          else [x, y] = first = [numbers[0], numbers[1]], add(x, y);
        }
      }
      return points;
    }
    const length = node.getTotalLength();
    for (let i = 0; i <= Math.ceil(length / 2); i++) {
      const { x, y } = node.getPointAtLength(Math.min(length, 2 * i));
      add(x, y);
    }
    return points;
  };
  const marks = [];
  for (const { id, rows, area } of subplots) {
    for (const row of rows) {
      for (const node of row.querySelectorAll(".points path, .bars path, .boxes path.box, .errorbar path, .hm image, path.js-line")) {
        if (!isPainted(node)) continue;
        const trace = node.closest(".trace") ?? node.parentElement, style = getComputedStyle(node);
        const stroke = parsed(style.stroke), fill = parsed(style.fill), share = opacity(node);
        const width = parseFloat(style.strokeWidth) || 0;
        const inks = [
          ...(stroke && width > 0 ? [{ ...stroke, alpha: stroke.alpha * share * Number(style.strokeOpacity) }] : []),
          ...(fill && !node.matches(".js-line") ? [{ ...fill, alpha: fill.alpha * share * Number(style.fillOpacity) }] : []),
        ].filter((ink) => ink.alpha > 0.02);
        const isImage = node.tagName === "image", kind = node.matches(".js-line, .errorbar path") ? "line" : isImage ? "map" : "mark";
        if (!inks.length && !isImage) continue;
        let boxes = [corners(node)];
        if (kind === "line") {
          boxes = pointsAlong(node).filter((point) => isWithin(area, point, 1)).map((point) => [point]);
        } else {
          boxes = boxes.filter((box) => {
            const { left, right, top, bottom } = bounds(box);
            return isWithin(area, { x: (left + right) / 2, y: (top + bottom) / 2 }, 2) || kind === "map" || node.closest(".bars");
          });
        }
        marks.push({ id, node, trace, kind, inks, boxes, area });
      }
    }
  }
  for (const node of plot.querySelectorAll(".shapelayer path")) {
    const style = getComputedStyle(node), stroke = parsed(style.stroke);
    if (!stroke || stroke.alpha < 0.05 || !(parseFloat(style.strokeWidth) > 0) || !isPainted(node)) continue;
    marks.push({ node, trace: node, kind: "line", inks: [], boxes: pointsAlong(node).map((point) => [point]) });
  }
  for (const mark of marks) mark.around = bounds(mark.boxes.flat());
  for (const { node, box, inside, text } of texts) {
    const own = node.closest(".trace");
    const hit = marks.find(({ trace, kind, boxes, around }) => {
      if (isApart(inside, around)) return false;
      // Labels of cells, bars and points stand upon what they label.
      if (own && trace === own && kind !== "line") return false;
      if (kind === "map" && (node.closest(".heatmap-label") || contrast(commonest(pixels(inside)), paper) < 1.1)) return false;
      return boxes.some((other) => other.length === 1 ? isWithin(inside, other[0], 0) && depth(box, other) > -0.01 : depth(box, other) > 1);
    });
    if (hit) say("text upon data", text, `${hit.kind} ${hit.trace.__data__?.[0]?.trace?.name ?? ""}`);
  }

  // ---- cut off
  for (const { node, inside: { left, right, top, bottom }, text } of texts) {
    const limits = [frame, { left: 0, right: document.documentElement.clientWidth, top: -1e6, bottom: 1e6 }];
    if (node.closest(".cartesianlayer") && node.closest("[clip-path]")) {
      const id = node.closest("[clip-path]").getAttribute("clip-path");
      const subplot = subplots.find(({ rows }) => [...rows].some((row) => row.contains(node)));
      if (subplot && id.includes("plot")) limits.push(subplot.area);
    }
    if (limits.some((limit) => left < limit.left - 1 || right > limit.right + 1 || top < limit.top - 1 || bottom > limit.bottom + 1))
      say("text cut off", text);
  }
  const bar = plot.querySelector(".modebar");
  if (bar) {
    const buttons = [...bar.querySelectorAll(".modebar-btn")].map((node) => node.getBoundingClientRect());
    const area = buttons.length && rectangle({
      left: Math.min(...buttons.map((one) => one.left)), right: Math.max(...buttons.map((one) => one.right)),
      top: Math.min(...buttons.map((one) => one.top)), bottom: Math.max(...buttons.map((one) => one.bottom)),
    });
    if (area) for (const { box, text } of texts) if (depth(box, area) > 1) say("text under the buttons", text);
  }

  // ---- ticks
  const axes = new Map();
  for (const one of texts) {
    const tick = one.node.closest("[class*=tick]"), name = tick?.getAttribute("class").match(/\b([xy]\d*)tick\b/)?.[1];
    if (!name || !one.node.closest(".cartesianlayer")) continue;
    const key = `${name} ${one.node.closest(".subplot")?.getAttribute("class")}`;
    if (!axes.has(key)) axes.set(key, []);
    axes.get(key).push(one);
    if (/\d[.,]\d{6,}|\d{9,}/.test(one.text)) say("tick with too many digits", one.text);
    if (/^.?0\.\d+×10/.test(one.text)) say("tick of a broken power", one.text);
    const axis = layout[name[0] + "axis" + name.slice(1)];
    if (Math.abs(one.node.getScreenCTM().b) > 0.01 && !Number.isFinite(axis?.tickangle)) say("tick turned for want of room", one.text);
  }
  for (const [key, list] of axes) {
    const across = key[0] === "x", places = list.map(({ box, text, node }) => ({ ...bounds(box), text, node }));
    places.sort((a, b) => across ? a.left - b.left : a.top - b.top);
    for (const { text } of places.filter((one, i) => places.findIndex((other) => other.text === one.text) < i))
      if (layout[key.split(" ")[0].replace(/([xy])/, "$1axis")]?.type !== "category") say("two ticks of one text", text);
    places.slice(1).forEach((one, i) => {
      const before = places[i], gap = across ? one.left - before.right : one.top - before.bottom;
      if (one.node !== before.node && gap < (across ? 4 : 0)) say("ticks without room", before.text, one.text);
    });
  }

  // ---- legends
  for (const legend of plot.querySelectorAll(".legend")) {
    const entries = [...legend.querySelectorAll(".traces")].filter((node) => isPainted(node) && !node.__data__[0].groupTitle);
    if (entries.length > 6) say("legend of more than six", String(entries.length));
    const box = rectangle(legend.querySelector(".bg").getBoundingClientRect());
    for (const { area, id } of subplots) if (entries.length && depth(box, rectangle(area)) > 2) say("legend upon the axes", id);
  }

  // ---- contrast
  for (const { node, inside, text, size, style } of texts) {
    const ink = parsed(style.fill);
    if (!ink) continue;
    const alpha = ink.alpha * opacity(node) * Number(style.fillOpacity);
    const values = counted(pixels(inside)).map(([ground, count]) => [contrast(over({ ...ink, alpha }, ground), ground), count]);
    values.sort((a, b) => a[0] - b[0]);
    let left = Math.floor(values.reduce((sum, [, count]) => sum + count, 0) / 10);
    const worst = values.find(([, count]) => (left -= count) < 0)?.[0], large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (worst < (large ? 3 : 4.5)) say("text without contrast", text, worst.toFixed(2));
  }
  // Marks at one place are one: a white ring in a dark one is seen everywhere.
  const places = marks.filter(({ kind }) => kind === "mark").flatMap((mark) => mark.boxes.map((box) => {
    const { left, right, top, bottom } = bounds(box);
    return { mark, x: (left + right) / 2, y: (top + bottom) / 2 };
  }));
  const maps = new Set(marks.filter(({ kind }) => kind === "map").map(({ id }) => id)), reported = new Set();
  for (const { id, node, trace, kind, inks, boxes } of marks) {
    if (!id || kind === "map" || !inks.length || !boxes.length) continue;
    if (kind === "line" && maps.has(id)) continue;
    let ground = paper, colours = inks;
    const { left, right, top, bottom } = bounds(boxes[0]), x = (left + right) / 2, y = (top + bottom) / 2;
    if (kind === "mark")
      colours = [...new Set(places.filter((one) => Math.hypot(one.x - x, one.y - y) < 1).map((one) => one.mark))].flatMap((one) => one.inks);
    if (maps.has(id)) ground = commonest(pixels({ left: left - 4, right: right + 4, top: top - 4, bottom: top }));
    const best = Math.max(...colours.map((ink) => contrast(over(ink, ground), ground)));
    const name = `${trace.__data__?.[0]?.trace?.name ?? ""} ${kind}`, key = `${name}${best.toFixed(2)}`;
    if (best < 2.995 && !reported.has(key)) say("mark without contrast", name, best.toFixed(2));
    reported.add(key);
  }
  return wrong;
}
