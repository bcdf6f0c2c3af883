// The traces of one clip: lanes one above the other on one time axis, with one playhead that a slider moves.

/** Decodes the traces of a clip. */
function decoded(id) {
  const raw = contents.traces[id];
  const pair = (columns) => (columns ? columns.map(levels) : null);
  return {
    id,
    times: Array.from({ length: raw.num }, (_, k) => raw.start_s + k * raw.step_s),
    step: raw.step_s,
    averaged: raw.width > 1,
    truth: pair(raw.truth),
    before: pair(raw.before), // corrections, where there are some
    corrected: Boolean(raw.corrected),
    va: pair(raw.va),
    low: pair(raw.low),
    high: pair(raw.high),
    others: raw.others.map((other) => ({ title: other.title, va: pair(other.va) })),
    reliability: raw.reliability ? raw.reliability.map(shares) : null,
    weights: raw.weights ? raw.weights.map(shares) : null,
    masked: raw.mask,
    stage: raw.stage,
    pictures: raw.pictures ? { ...raw.pictures, url: URL.createObjectURL(new Blob([bytes(raw.pictures.jpeg)], { type: "image/jpeg" })) } : null,
    wave: raw.wave ? { peaks: new Int8Array(bytes(raw.wave.peaks).buffer), span: raw.wave.span_s } : null,
  };
}

function stageAt(clip, index) {
  let stage = 0;
  clip.stage.starts.forEach((start, k) => { if (start <= index) stage = clip.stage.stages[k]; });
  return stage;
}

/** Places of the largest errors, the largest first, each at least three seconds from the others. */
function worstPlaces(clip) {
  if (!clip.truth) return [];
  const error = clip.times.map((_, k) => {
    const parts = [0, 1].map((target) => Math.abs(clip.va[target][k] - clip.truth[target][k]));
    return known(clip.truth[0][k]) ? parts[0] + parts[1] : null;
  });
  const order = error.map((_, k) => k).filter((k) => known(error[k])).sort((a, b) => error[b] - error[a]);
  const places = [];
  for (const k of order) {
    if (places.length === 8) break;
    if (places.every((other) => Math.abs(clip.times[other] - clip.times[k]) >= 3)) places.push(k);
  }
  return places;
}

function rangeText(values) {
  const there = values.filter(known);
  return there.length ? `from ${number(Math.min(...there), 2)} to ${number(Math.max(...there), 2)}` : "nowhere";
}

/** Shows one clip at a time; `extend` is passed on to `clipView`. */
function viewer(neighbour, extend = null) {
  const node = element("div", { class: "viewer", id: "viewer" });
  let view = null;

  function open(id) {
    const focused = node.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    if (view) view.close();
    view = clipView(id, neighbour, node, extend);
    node.replaceChildren(...view.nodes);
    view.start();
    if (focused) node.querySelector(`[data-action="${focused}"]`)?.focus({ preventScroll: true });
  }
  return { node, open, repaint: () => view && view.repaint() };
}

/**
 * The view of one clip: its nodes, `start` once they are in the page, `repaint` for other colours, and `close`.
 *
 * `extend(parts)` adds to it, as the page of `sage-va view` does. It gets the parts of the view and returns any of:
 * `above`, `below`, `buttons`, `hints`: nodes; `lanes`; `keys`: key -> action; `moved(time)`: the user has moved the
 * playhead; `drawn(box, low, high)`: the time axis has changed; `pointer(event, time)`: true if it takes a pointer
 * event of the traces; `isQuiet()`: true while the playhead runs by itself; `started()`: it is in the page; `close()`.
 */
function clipView(id, neighbour, holder, extend) {
  const clip = decoded(id);
  const row = contents.clips.find((one) => one.id === id);
  const ends = [clip.times[0] - clip.step / 2, clip.times[clip.times.length - 1] + clip.step / 2];
  const state = { index: 0, time: ends[0], low: ends[0], high: ends[1], width: 0, worst: -1 };
  const stack = element("div", { class: "stack" });
  const playhead = element("div", { class: "playhead", "aria-hidden": "true" });
  const readings = element("dl");
  const frame = clip.pictures ? frameOf(clip) : null;
  const readout = element("div", { class: "readout" }, frame && frame.node, readings);
  const slider = element("input", { class: "scrubber", type: "range", min: 0, max: clip.times.length - 1, step: 1, value: 0,
    "aria-label": "Playhead", "data-action": "playhead", oninput: () => moveTo(+slider.value) });
  const worst = worstPlaces(clip);
  const box = () => {
    const style = getComputedStyle(document.documentElement);
    const [left, right] = ["--gutter", "--right"].map((name) => parseFloat(style.getPropertyValue(name)));
    return { left, right, plot: Math.max(50, state.width - left - right) };
  };

  /** Moves the playhead to a step, for the user. */
  function moveTo(index) {
    const time = clip.times[Math.min(Math.max(index, 0), clip.times.length - 1)];
    follow(time);
    extra.moved?.(time);
  }

  /** Shows the playhead at an instant, which need not be that of a step. */
  function follow(wanted) {
    const time = Math.min(Math.max(wanted, ends[0]), ends[1]);
    const span = state.high - state.low;
    state.time = time;
    state.index = Math.min(Math.max(Math.round((time - clip.times[0]) / clip.step), 0), clip.times.length - 1);
    if (time < state.low || time > state.high) show(time - span / 2, time + span / 2);
    slider.value = state.index;
    if (!extra.isQuiet?.()) slider.setAttribute("aria-valuetext", spoken(clip, state.index));
    const { left, plot } = box();
    playhead.style.left = `${left + ((time - state.low) / (state.high - state.low)) * plot}px`;
    playhead.dataset.time = `${number(time, 2)} s`;
    if (frame) frame.show(time);
    readings.replaceChildren(...readingsAt(clip, state.index));
  }

  function show(low, high) {
    const span = Math.min(high - low, ends[1] - ends[0]);
    state.low = Math.min(Math.max(low, ends[0]), ends[1] - span);
    state.high = state.low + span;
    for (const lane of lanes) lane.draw(box(), state.low, state.high);
    extra.drawn?.(box(), state.low, state.high);
  }

  function zoom(factor) {
    const { time } = state;
    const span = Math.max((state.high - state.low) * factor, Math.min(20 * clip.step, ends[1] - ends[0]));
    const share = (time - state.low) / (state.high - state.low);
    show(time - share * span, time + (1 - share) * span);
    follow(time);
  }

  function nextWorst() {
    if (!worst.length) return;
    state.worst = (state.worst + 1) % worst.length;
    moveTo(worst[state.worst]);
  }

  function timeAt(event) {
    const { left, plot } = box();
    const x = event.clientX - stack.getBoundingClientRect().left - left;
    return state.low + (Math.min(Math.max(x, 0), plot) / plot) * (state.high - state.low);
  }

  function point(event) {
    const time = timeAt(event);
    if (!extra.pointer?.(event, time)) moveTo(Math.round((time - clip.times[0]) / clip.step));
  }

  const extra = extend ? extend({ clip, row, stack, ends, state, moveTo, follow, redraw: () => show(state.low, state.high), lanes: () => lanes }) : {};
  const lanes = lanesOf(clip, row, extra.lanes || []);

  const keys = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(Infinity),
    e: nextWorst, n: () => neighbour(1), p: () => neighbour(-1), ...extra.keys };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    if (event.target.closest?.("input:not([type=range]), select, textarea") || (event.key === " " && event.target.closest?.("button, summary"))) return;
    event.preventDefault();
    keys[event.key](event);
  };
  const keySource = extend ? document : holder;
  stack.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stack.setPointerCapture(event.pointerId);
    point(event);
    slider.focus({ preventScroll: true });
  });
  stack.addEventListener("pointermove", (event) => { if (event.buttons & 1) point(event); });
  stack.addEventListener("pointerup", (event) => extra.pointer?.(event, timeAt(event)));
  stack.append(...lanes.map((lane) => lane.node), playhead);

  const button = (text, action, hint) => element("button", { class: "button", type: "button", onclick: action, title: hint, "data-action": text }, text);
  const facts = [`CCC ${number(row.ccc.mean)} (valence ${number(row.ccc.valence)}, arousal ${number(row.ccc.arousal)})`,
    `${number(row.seconds, 0)} s`, plural(row.labels, "label")];
  if (clip.averaged) facts.push(`drawn as means over ${number(clip.step, 2)} s`);
  const head = element("div", { class: "viewer-head" },
    element("h3", { "aria-live": "polite" }, id, element("small", {}, facts.join(" · "))),
    element("div", { class: "buttons" },
      button("← Previous", () => neighbour(-1), "Previous clip of the table (p)"), button("Next →", () => neighbour(1), "Next clip of the table (n)"),
      worst.length ? button("Largest error", nextWorst, "Jump to the largest errors, one after the other (e)") : null,
      ...(extra.buttons || []),
      button("Zoom in", () => zoom(0.5), "Zoom in at the playhead (+)"), button("Zoom out", () => zoom(2), "Zoom out (−)")));
  const hint = element("p", { class: "note" }, "Click or drag in the traces, or use the slider: ", element("kbd", {}, "←"), " ", element("kbd", {}, "→"),
    " move the playhead, ", element("kbd", {}, "Page ↑↓"), " further; ", element("kbd", {}, "+"), " ", element("kbd", {}, "−"), " ", element("kbd", {}, "0"),
    " zoom, ", element("kbd", {}, "e"), " largest errors, ", element("kbd", {}, "n"), " ", element("kbd", {}, "p"), " next and previous clip.", ...(extra.hints || []));

  const observer = new ResizeObserver(() => {
    if (stack.clientWidth > 0 && stack.clientWidth !== state.width) {
      state.width = stack.clientWidth;
      show(state.low, state.high);
      follow(state.time);
    }
  });
  return {
    nodes: [head, ...(extra.above || []), stack, slider, readout, ...(extra.below || []), hint],
    start() {
      observer.observe(stack);
      keySource.addEventListener("keydown", onKey, { capture: true });
      state.width = stack.clientWidth;
      show(state.low, state.high);
      follow(clip.times[0]);
      extra.started?.();
    },
    repaint() {
      for (const lane of lanes) lane.forget();
      show(state.low, state.high);
    },
    close() {
      observer.disconnect();
      keySource.removeEventListener("keydown", onKey, { capture: true });
      extra.close?.();
      for (const lane of lanes) lane.forget();
      if (clip.pictures) URL.revokeObjectURL(clip.pictures.url);
    },
  };
}

/** What the playhead stands on, as terms with their values. */
function readingsAt(clip, index) {
  const item = (term, value) => element("div", {}, element("dt", {}, term), element("dd", {}, value));
  const items = [];
  items.push(item("time", `${number(clip.times[index], 2)} s`));
  TARGETS.forEach((name, target) => {
    const truth = clip.truth ? ` (gold ${number(clip.truth[target][index], 2)})` : "";
    items.push(item(name, number(clip.va[target][index], 2) + truth));
  });
  contents.streams.forEach((stream, m) => {
    const masked = isMasked(clip.masked[m], index);
    const parts = [clip.reliability && `r ${number(clip.reliability[m][index], 2)}`, clip.weights && `w ${number(clip.weights[m][index], 2)}`];
    items.push(item(stream.label, masked ? "masked" : parts.filter(Boolean).join(", ") || "valid"));
  });
  if (clip.stage) items.push(item("stage", `${stageAt(clip, index) + 1} of ${clip.stage.num}`));
  return items;
}

function spoken(clip, index) {
  const parts = [`${number(clip.times[index], 2)} seconds`];
  TARGETS.forEach((name, target) => {
    const truth = clip.truth && known(clip.truth[target][index]) ? `, gold standard ${number(clip.truth[target][index], 2)}` : "";
    parts.push(`${name} ${number(clip.va[target][index], 2)}${truth}`);
  });
  contents.streams.forEach((stream, m) => {
    if (isMasked(clip.masked[m], index)) parts.push(`${stream.label} masked`);
    else if (clip.reliability) parts.push(`reliability of ${stream.label} ${number(clip.reliability[m][index], 2)}`);
  });
  return parts.join("; ");
}

function isMasked(spans, index) {
  for (let k = 0; k < spans.length; k += 2) if (index >= spans[k] && index < spans[k + 1]) return true;
  return false;
}

function nearest(times, time) {
  return times.reduce((best, each, k) => (Math.abs(each - time) < Math.abs(times[best] - time) ? k : best), 0);
}

/** The picture of the recording nearest to the playhead. */
function frameOf(clip) {
  const { times_s: times, url, size: [width, height] } = clip.pictures;
  const scale = 56 / height;
  const node = element("div", { class: "frame", role: "img", "aria-label": "Picture of the recording nearest to the playhead", style: {
    width: `${width * scale}px`, height: "56px", "background-image": `url(${url})`, "background-size": `${width * times.length * scale}px 56px` } });
  return { node, show: (time) => node.style.setProperty("background-position", `${-nearest(times, time) * width * scale}px 0`) };
}
