// Plots: intervals on a track, line charts as SVG, legends. Each has a text for those who do not see it.

/** Calls `draw(width)` now and whenever the width of a container changes. */
function responsive(container, draw) {
  let last = 0;
  const redraw = () => {
    const width = Math.floor(container.clientWidth);
    if (width > 0 && width !== last) draw((last = width));
  };
  new ResizeObserver(redraw).observe(container);
  return container;
}

/** An interval as a bar with a dot, on a scale from low to high; `zero` marks a place with a line. */
function track(part, [low, high], colour, zero = null) {
  const place = (value) => `${(Math.min(Math.max((value - low) / (high - low), 0), 1) * 100).toFixed(2)}%`;
  const node = element("div", { class: "track", "data-colour": colour, "aria-hidden": "true" });
  if (zero !== null) node.append(element("i", { style: { left: place(zero) } }));
  if (known(part.low)) {
    const width = (Math.min(part.high, high) - Math.max(part.low, low)) / (high - low);
    node.append(element("s", { style: { left: place(part.low), width: `${(Math.max(width, 0) * 100).toFixed(2)}%` } }));
  }
  if (known(part.value)) node.append(element("u", { style: { left: place(part.value) } }));
  return node;
}

/** The scale that holds all of these intervals, with some room. */
function scaleOf(parts) {
  const ends = parts.flatMap((part) => [part.low, part.value, part.high]).filter(known);
  if (!ends.length) return [0, 1];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const room = Math.max(high - low, 0.02) * 0.08;
  return [low - room, high + room];
}

function legend(entries) {
  return element("ul", { class: "legend" }, entries.map(({ title, colour, dash = "", band = false }) =>
    element("li", {}, key(colour, dash, band), title)));
}

function key(colour, dash, band) {
  const stroke = { style: { stroke: `var(--${colour})` }, "stroke-width": 2.5, "stroke-dasharray": dash || null };
  const mark = band
    ? svg("rect", { x: 0, y: 0, width: 22, height: 10, rx: 2, style: { fill: `var(--${colour})`, opacity: 0.28 } })
    : svg("line", { x1: 0, x2: 22, y1: 5, y2: 5, ...stroke });
  return svg("svg", { width: 22, height: 10, "aria-hidden": "true" }, mark);
}

/**
 * A line chart. `lines`: {points: [[x, y], …], colour, dash, dots}; a null y is a gap. `x`, `y`: ends of the axes.
 * `bars`: {at, width, height 0 … 1, colour} along the bottom.
 */
function lineChart({ label, height = 230, x, y, xTitle = "", yTitle = "", xTicks = 5, lines, bars = [], diagonal }) {
  const container = element("div", { class: "chart", role: "img", "aria-label": label });
  return responsive(container, (width) => {
    const box = { left: yTitle ? 56 : 44, right: 8, top: 10, bottom: 38 };
    const across = (value) => box.left + ((value - x[0]) / (x[1] - x[0])) * (width - box.left - box.right);
    const up = (value) => height - box.bottom - ((value - y[0]) / (y[1] - y[0])) * (height - box.top - box.bottom);
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (const tick of ticks(y[0], y[1], 4)) {
      picture.append(svg("line", { class: "grid", x1: box.left, x2: width - box.right, y1: up(tick), y2: up(tick) }));
      picture.append(svg("text", { x: box.left - 8, y: up(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    }
    for (const tick of ticks(x[0], x[1], Math.min(xTicks, width / 50))) {
      picture.append(svg("text", { x: across(tick), y: height - box.bottom + 16, "text-anchor": "middle" }, tickText(tick)));
    }
    picture.append(svg("text", { x: (box.left + width - box.right) / 2, y: height - 4, "text-anchor": "middle" }, xTitle));
    if (yTitle) picture.append(svg("text", { x: 0, y: 0, "text-anchor": "middle",
      transform: `translate(10 ${(box.top + height - box.bottom) / 2}) rotate(-90)` }, yTitle));
    if (diagonal) picture.append(svg("line", { x1: across(x[0]), y1: up(y[0]), x2: across(x[1]), y2: up(y[1]),
      style: { stroke: "var(--axis)" }, "stroke-width": 1.5, "stroke-dasharray": "3 4" }));
    for (const bar of bars) {
      const tall = bar.height * (height - box.top - box.bottom) * 0.22;
      picture.append(svg("rect", { x: across(bar.at), width: across(bar.at + bar.width) - across(bar.at) - 1,
        y: height - box.bottom - tall, height: tall, style: { fill: `var(--${bar.colour})`, opacity: 0.22 } }));
    }
    for (const line of lines) picture.append(...drawn(line, across, up));
    container.replaceChildren(picture);
  });
}

function drawn({ points, colour, dash, dots, faint }, across, up) {
  let path = "";
  let pen = "M";
  for (const [x, y] of points) {
    if (known(y)) path += `${pen}${across(x).toFixed(1)} ${up(y).toFixed(1)}`;
    pen = known(y) ? "L" : "M";
  }
  const stroke = { style: { stroke: `var(--${colour})`, opacity: faint ? 0.5 : 1 }, "stroke-dasharray": dash || null };
  const marks = dots ? points.filter(([, y]) => known(y)).map(([x, y]) =>
    svg("circle", { cx: across(x), cy: up(y), r: 3.5, style: { fill: `var(--${colour})` } })) : [];
  return [svg("path", { class: "line", d: path, ...stroke }), ...marks];
}

/** A table of plain cells in a fold, for those who read numbers rather than lines. */
function numbersBelow(title, heads, rows) {
  return element("details", {}, element("summary", {}, title), plainTable(heads, rows));
}

function plainTable(heads, rows) {
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of numbers" },
    element("table", {},
      element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, rows.map(([first, ...cells]) => element("tr", {},
        element("th", { scope: "row" }, first), cells.map((cell) => element("td", {}, cell)))))));
}
