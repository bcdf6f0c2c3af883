// The lanes of a clip: pictures, waveform, estimates, gate, valid steps, stages and time, all on one axis.

const STREAM_COLOURS = ["orange", "green", "pink", "yellow"];
const OTHER_COLOURS = ["pink", "yellow", "grey"];
const STAGE_COLOURS = ["grey", "yellow", "pink", "blue", "green", "orange"];
const TARGETS = ["valence", "arousal"];

/** The lanes of a clip, from top to bottom, `more` below the gate. Each has a node, `draw(box, low, high)` and `forget()`. */
function lanesOf(clip, row, more) {
  const lanes = [];
  if (clip.pictures) lanes.push(filmLane(clip));
  if (clip.wave) lanes.push(waveLane(clip));
  TARGETS.forEach((name, target) => lanes.push(affectLane(clip, row, name, target)));
  if (clip.reliability) lanes.push(shareLane(clip, "reliability", clip.reliability));
  if (clip.weights) lanes.push(shareLane(clip, "weight", clip.weights));
  lanes.push(...more, maskLane(clip));
  if (clip.stage) lanes.push(stageLane(clip));
  lanes.push(timeLane());
  return lanes;
}

function laneOf(heading, body) {
  return element("div", { class: "lane" }, heading, body);
}

function heading(title, entries) {
  return element("p", {}, element("b", {}, title), ...entries.map(({ title: text, colour, dash = "", band = false, name = null }) =>
    element("span", { class: name }, key(colour, dash, band), " ", text)));
}

function affectLane(clip, row, name, target) {
  const base = contents.standing.base;
  const entries = [];
  const series = [];
  clip.others.forEach((other, k) => {
    series.push({ values: other.va[target], colour: OTHER_COLOURS[k], dash: [6, 4], width: 1.5 });
    entries.push({ title: other.title, colour: OTHER_COLOURS[k], dash: "6 4" });
  });
  if (clip.low) {
    series.push({ values: clip.low[target], colour: "blue", width: 0 }, { values: clip.high[target], colour: "blue", width: 0, band: true });
    entries.unshift({ title: "range over runs", colour: "blue", band: true });
  }
  if (clip.before) {
    series.push({ values: clip.before[target], colour: "grey", dash: [2, 4], width: 1.6 });
    entries.unshift({ title: "before corrections", colour: "grey", dash: "2 4", name: "before" });
  }
  if (clip.truth) {
    series.push({ values: clip.truth[target], colour: "ink", width: 1.6 });
    entries.unshift({ title: "gold standard", colour: "ink" });
  }
  series.push({ values: clip.va[target], colour: "blue", width: 2 });
  entries.unshift({ title: base, colour: "blue" });
  const truth = clip.truth ? `; gold standard ${rangeText(clip.truth[target])}` : "; no gold standard";
  const label = `${name} of ${clip.id} over time: estimate ${rangeText(clip.va[target])}${truth}; CCC ${number(row.ccc[name])}, root mean squared error ${number(row.rmse[name])}.`;
  const lane = plotLane(heading(name, entries), clip, series, { label, height: 150, range: [-1, 1], splits: [-1, -0.5, 0, 0.5, 1] });
  return { ...lane, target };
}

function shareLane(clip, name, columns) {
  const colours = contents.streams.map((_, m) => STREAM_COLOURS[m % STREAM_COLOURS.length]);
  const dashes = ["", "7 4", "2 4", "9 3 2 3"];
  const entries = contents.streams.map((stream, m) => ({ title: stream.label, colour: colours[m], dash: dashes[m % 4] }));
  const series = columns.map((values, m) => ({ values, colour: colours[m], width: 2, dash: dashes[m % 4].split(" ").filter(Boolean).map(Number) }));
  const means = contents.streams.map((stream, m) => {
    const there = columns[m].filter(known);
    return `${stream.label} ${number(there.reduce((sum, value) => sum + value, 0) / Math.max(1, there.length), 2)} on average`;
  });
  return plotLane(heading(name, entries), clip, series, { label: `${name} of each stream over time: ${means.join(", ")}.`, height: 92, range: [0, 1], splits: [0, 0.5, 1] });
}

/** A lane that uPlot draws. */
function plotLane(title, clip, series, { label, height, range, splits }) {
  const holder = element("div", { role: "img", "aria-label": label });
  let plot = null;
  let gutter = 0;
  const data = [clip.times, ...series.map((one) => one.values)];

  function made(box) {
    const [line, muted] = ["line", "muted"].map(colourOf);
    const bands = [];
    series.forEach((one, k) => {
      if (one.band) bands.push({ series: [k + 1, k], fill: colourOf(one.colour).replace("rgb(", "rgba(").replace(")", ", 0.2)") });
    });
    return new uPlot({
      width: box.left + box.plot + box.right, height, padding: [6, box.right, 6, 0],
      cursor: { show: false }, legend: { show: false }, select: { show: false },
      scales: { x: { time: false }, y: { range: () => range } },
      axes: [{ show: false }, { size: () => gutter, gap: 6, stroke: muted, font: "12px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { show: false },
        splits: () => splits, values: (_, places) => places.map((place) => (Number.isInteger(place) || range[0] === 0 ? tickText(place) : "")) }],
      series: [{}, ...series.map((one) => ({ stroke: one.width ? colourOf(one.colour) : "transparent", width: one.width, dash: one.dash, points: { show: false } }))],
      bands,
    }, data, holder);
  }

  return {
    node: laneOf(title, holder),
    draw(box, low, high) {
      gutter = box.left;
      plot = plot || made(box);
      plot.batch(() => {
        plot.setSize({ width: box.left + box.plot + box.right, height });
        plot.setScale("x", { min: low, max: high });
      });
    },
    forget() {
      if (plot) plot.destroy();
      plot = null;
    },
    /** Draws values again that have changed in their arrays. */
    refresh() {
      if (!plot) return;
      plot.setData(data, false);
      plot.redraw();
    },
    /** The value at the height of a pointer event, within the range; null where it is outside of the plot. */
    valueAt(event) {
      const area = plot.over.getBoundingClientRect();
      const share = (area.bottom - event.clientY) / area.height;
      return share < -0.1 || share > 1.1 ? null : range[0] + Math.min(Math.max(share, 0), 1) * (range[1] - range[0]);
    },
  };
}

/** A lane that is drawn as SVG: `paint(across, inner, box)` fills the plot area. */
function svgLane(title, label, height, paint, outside = () => []) {
  const holder = element("div", { role: "img", "aria-label": label });
  return {
    node: title ? laneOf(title, holder) : holder,
    draw(box, low, high) {
      const across = (time) => ((time - low) / (high - low)) * box.plot;
      const inner = svg("svg", { x: box.left, width: box.plot, height });
      inner.append(...paint(across, box, low, high));
      holder.replaceChildren(svg("svg", { width: box.left + box.plot + box.right, height, "aria-hidden": "true" }, ...outside(box, low, high), inner));
    },
    forget() {},
  };
}

function maskLane(clip) {
  const high = 12;
  const gap = 6;
  const height = contents.streams.length * (high + gap);
  const edge = (index) => clip.times[0] + (index - 0.5) * clip.step;
  const shares = contents.streams.map((stream, m) => {
    const masked = clip.masked[m].reduce((sum, place, k) => sum + (k % 2 ? place : -place), 0);
    return `${stream.label} ${Math.round((1 - masked / clip.times.length) * 100)} %`;
  });
  const paint = (across) => contents.streams.flatMap((_, m) => {
    const colour = `var(--${STREAM_COLOURS[m % STREAM_COLOURS.length]})`;
    const bar = (from, to, style) => svg("rect", { x: across(from), y: m * (high + gap), width: Math.max(0, across(to) - across(from)), height: high, style });
    const bars = [bar(edge(0), edge(clip.times.length), { fill: colour, opacity: 0.55 })];
    for (let k = 0; k < clip.masked[m].length; k += 2) {
      const [from, to] = [edge(clip.masked[m][k]), edge(clip.masked[m][k + 1])];
      bars.push(bar(from, to, { fill: "var(--surface)" }), bar(from, to, { fill: "url(#hatch)" }));
    }
    return bars;
  });
  const hatch = () => svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("line", { x1: 0, x2: 0, y1: 0, y2: 6, style: { stroke: "var(--muted)" }, "stroke-width": 2 }));
  const names = (box) => [svg("defs", {}, hatch()), ...contents.streams.map((stream, m) =>
    svg("text", { x: box.left - 8, y: m * (high + gap) + 10, "text-anchor": "end" }, svg("title", {}, stream.label), shortened(stream.label, box.left)))];
  return svgLane(heading("valid", []), `Valid steps of each stream: ${shares.join(", ")}. The rest is masked.`, height, paint, names);
}

function shortened(text, room) {
  const letters = Math.max(3, Math.floor((room - 8) / 6.2));
  return text.length > letters ? `${text.slice(0, letters - 1)}…` : text;
}

function stageLane(clip) {
  const height = 20;
  const { num, starts, stages } = clip.stage;
  const edge = (index) => clip.times[0] + (index - 0.5) * clip.step;
  const paint = (across) => starts.flatMap((start, k) => {
    const [from, to] = [across(edge(start)), across(edge(k + 1 < starts.length ? starts[k + 1] : clip.times.length))];
    const bar = svg("rect", { x: from, width: Math.max(0, to - from), height, style: { fill: `var(--${STAGE_COLOURS[stages[k] % STAGE_COLOURS.length]})`, opacity: 0.4 } });
    return to - from < 14 ? [bar] : [bar, svg("text", { x: (from + to) / 2, y: 14, "text-anchor": "middle", style: { fill: "var(--ink)" } }, String(stages[k] + 1))];
  });
  return svgLane(heading(`stage, the most probable of ${num}`, []), `Most probable of ${num} stages over time; it changes ${plural(starts.length - 1, "time")}.`, height, paint);
}

function timeLane() {
  const paint = (across, box, low, high) => ticks(low, high, box.plot / 90).flatMap((tick) => [
    svg("line", { x1: across(tick), x2: across(tick), y1: 0, y2: 5, style: { stroke: "var(--axis)" } }),
    svg("text", { x: Math.min(Math.max(across(tick), 12), box.plot - 14), y: 18, "text-anchor": "middle" }, `${tickText(tick)} s`)]);
  return svgLane(element("p", { class: "sr" }, "time"), "Time axis in seconds.", 24, paint);
}

function waveLane(clip) {
  const height = 44;
  const { peaks, span: [first, last] } = clip.wave;
  const num = peaks.length / 2;
  const paint = (across) => {
    const at = (k) => across(first + ((k + 0.5) / num) * (last - first)).toFixed(1);
    const up = (value) => (height / 2 - (value / 127) * (height / 2 - 1)).toFixed(1);
    const over = Array.from({ length: num }, (_, k) => `${at(k)} ${up(Math.max(peaks[2 * k + 1], 1))}`);
    const under = Array.from({ length: num }, (_, k) => `${at(num - 1 - k)} ${up(Math.min(peaks[2 * (num - 1 - k)], -1))}`);
    return [svg("path", { d: `M${over.join("L")}L${under.join("L")}Z`, style: { fill: "var(--grey)", opacity: 0.75 } })];
  };
  const label = `Waveform of the audio, from ${number(first, 1)} to ${number(last, 1)} seconds.`;
  return svgLane(heading("waveform", []), label, height, paint);
}

function filmLane(clip) {
  const { times_s: times, url, size: [width, height] } = clip.pictures;
  const scale = 56 / height;
  const film = element("div", { class: "film", role: "img", "aria-label": `${plural(times.length, "picture")} of the recording along the time axis.` });
  return {
    node: film,
    draw(box, low, high) {
      const num = Math.max(1, Math.round(box.plot / (width * scale)));
      const wide = box.plot / num;
      film.replaceChildren(...Array.from({ length: num }, (_, k) => {
        const place = nearest(times, low + ((k + 0.5) / num) * (high - low));
        const shift = (wide - width * scale) / 2 - place * width * scale;
        return element("div", { style: { left: `${k * wide}px`, width: `${wide}px`, "background-image": `url(${url})`,
          "background-size": `${width * times.length * scale}px 56px`, "background-position": `${shift}px 0` } });
      }));
    },
    forget() {},
  };
}
