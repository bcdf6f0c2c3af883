// Labels of a clip: a time range, new values for it, a pen; saved beside the originals.

const ROUNDED_S = 1e-4; // times have four digits

/** The value of a line through points at a time; the points are in order. */
function lineAt(points, time) {
  const after = points.findIndex(([at]) => at >= time);
  if (after <= 0) return points[after < 0 ? points.length - 1 : 0][1];
  const [[t0, v0], [t1, v1]] = [points[after - 1], points[after]];
  return t1 > t0 ? v0 + ((v1 - v0) * (time - t0)) / (t1 - t0) : v1;
}

/** A drawn stroke with half a step before and after it, so that it changes the steps that it touches, and at least one. */
function widened(points, step, ends) {
  const [[from, first], [to, last]] = [points[0], points[points.length - 1]];
  return [[Math.max(ends[0], from - step / 2), first], ...points, [Math.min(ends[1], to + step / 2), last]];
}

/** Edits that are not saved yet, by clip: they stay while other clips are open. */
const unsaved = new Map();
addEventListener("beforeunload", (event) => { if ([...unsaved.values()].some((edits) => edits.length)) event.preventDefault(); });

function labelEditor({ clip, row, number: place, stack, ends, state, redraw, lanes }) {
  const saved = (clip.truth ||= [0, 1].map(() => clip.times.map(() => null))).map((column) => [...column]);
  const edits = unsaved.get(clip.id) || [];
  unsaved.set(clip.id, edits);
  const range = { from: null, to: null };
  const span = element("div", { class: "span", hidden: true, "aria-hidden": "true" });
  stack.append(span);
  let stroke = null;
  let anchor = null;
  let drawing = false;
  let saving = false;

  const status = element("span", { role: "status", class: "label-status" });
  const field = (name, label, options) => element("label", {}, label, element("input", { type: "number", step: "any", name, autocomplete: "off", ...options }));
  const time = { min: ends[0].toFixed(3), max: ends[1].toFixed(3), placeholder: "s" };
  const level = { min: -1, max: 1, step: 0.01, placeholder: "as it is" };
  const form = element("form", { class: "labels-form", novalidate: true, onsubmit: (event) => { event.preventDefault(); applyForm(); } },
    element("fieldset", {}, element("legend", {}, "Time range"), field("from", "from, s", time), field("to", "to, s", time)),
    ...TARGETS.map((name) => element("fieldset", {}, element("legend", {}, name), field(`${name}-first`, "at its begin", level), field(`${name}-last`, "at its end", { ...level, placeholder: "the same" }))));
  const input = (name) => form.elements.namedItem(name);
  for (const name of ["from", "to"]) input(name).addEventListener("input", () => { range[name] = numberIn(name); drawSpan(); });
  const button = (text, action, hint, more = {}) => element("button", { class: "button", type: "button", title: hint, onclick: action, ...more }, text);
  const pen = button("Draw", () => { drawing = !drawing; renew(); }, "Draw values into the lanes of valence and arousal with the pointer (d)", { "aria-pressed": "false" });
  const apply = element("button", { class: "button", type: "submit", title: "Set the values in this range (Enter)" }, "Set values");
  const clear = button("Remove labels", removeLabels, "Mark the range as not annotated");
  const undo = button("Undo", () => { edits.pop(); renew(); }, "Take back the last change (u)");
  const save = button("Save", store, "Write the corrected labels beside the originals (s)", { class: "button main" });
  form.append(element("div", { class: "buttons" }, apply, clear, pen, undo, save));
  const message = element("p", { class: "form-message", role: "alert" });

  function numberIn(name) {
    const value = parseFloat(input(name).value);
    return Number.isFinite(value) ? value : null;
  }

  function setRange(from, to) {
    const kept = (value) => (value === null ? null : Math.min(Math.max(value, ends[0]), ends[1]));
    [range.from, range.to] = [kept(from), kept(to)];
    for (const name of ["from", "to"]) input(name).value = range[name] === null ? "" : range[name].toFixed(2);
    drawSpan();
  }

  function drawSpan() {
    span.hidden = range.from === null || range.to === null || range.to < range.from;
    if (!span.hidden) redraw();
  }

  function drawn({ left, plot }, low, high) {
    const across = (at) => left + Math.min(Math.max((at - low) / (high - low), 0), 1) * plot;
    if (range.from === null || range.to === null) return;
    span.style.left = `${across(range.from)}px`;
    span.style.width = `${Math.max(1, across(range.to) - across(range.from))}px`;
  }

  /** The range of the form; null, with a message, where it is none. */
  function validRange() {
    if (range.from === null || range.to === null || range.to <= range.from) {
      message.textContent = "Choose a range first: its begin (i) and its end (o), or drag with Shift in the traces.";
      return null;
    }
    const [from, to] = [Math.max(range.from, ends[0]), Math.min(range.to, ends[1])];
    if (from < to) return [from, to];
    message.textContent = `The clip lasts from ${number(ends[0], 2)} to ${number(ends[1], 2)} s.`;
    return null;
  }

  function applyForm() {
    const ends = validRange();
    if (!ends) return;
    const added = [];
    for (const [target, name] of TARGETS.entries()) {
      const first = numberIn(`${name}-first`);
      const last = numberIn(`${name}-last`) ?? first;
      if (first === null) continue;
      if (Math.abs(first) > 1 || Math.abs(last) > 1) {
        message.textContent = `Values of ${name} lie between −1 and 1.`;
        return;
      }
      added.push({ target, points: [[ends[0], first], [ends[1], last]] });
    }
    if (!added.length) message.textContent = "Give a value of valence or arousal.";
    else add(...added);
  }

  function removeLabels() {
    const ends = validRange();
    if (ends) add(...[0, 1].map((target) => ({ target, points: ends.map((at) => [at, null]) })));
  }

  function add(...added) {
    message.textContent = "";
    edits.push(added);
    renew();
  }

  /** Shows the saved labels with the edits applied. */
  function renew() {
    const unfinished = stroke?.points.length ? [{ ...stroke, points: widened(stroke.points, clip.step, ends) }] : [];
    for (const target of [0, 1]) {
      clip.truth[target].splice(0, Infinity, ...saved[target]);
      for (const { points } of [...edits.flat(), ...unfinished].filter((edit) => edit.target === target)) {
        const [from, to] = [points[0][0], points[points.length - 1][0]];
        const empty = points[0][1] === null;
        clip.times.forEach((at, k) => {
          if (at >= from - ROUNDED_S && at <= to + ROUNDED_S) clip.truth[target][k] = empty ? null : lineAt(points, at);
        });
      }
    }
    stack.classList.toggle("corrected", clip.corrected || edits.length > 0);
    stack.classList.toggle("drawing", drawing);
    pen.setAttribute("aria-pressed", String(drawing));
    undo.disabled = save.disabled = saving || !edits.length;
    if (edits.length) status.textContent = `${plural(edits.length, "change")}, not saved`;
    else if (status.textContent.endsWith("not saved")) status.textContent = "";
    for (const lane of lanes()) if (lane.target !== undefined) lane.refresh();
  }

  async function store() {
    if (!edits.length || saving) return;
    const { length } = edits; // what is changed while it is being saved, is not saved yet
    saving = true;
    renew();
    try {
      const stored = await sent(`clips/${place}/labels`, { edits: edits.flat() });
      const columns = stored.truth ? stored.truth.map(levels) : saved.map((column) => column.map(() => null));
      saved.forEach((column, target) => column.splice(0, Infinity, ...columns[target]));
      Object.assign(contents.traces[clip.id], { truth: stored.truth, corrected: true });
      edits.splice(0, length);
      clip.corrected = true;
      status.textContent = `Saved to ${stored.file}: ${plural(stored.annotated, "label")}`;
      message.textContent = "";
    } catch (error) {
      message.textContent = `Not saved: ${error.message}`;
    }
    saving = false;
    renew();
  }

  function laneAt(event) {
    return lanes().find((lane) => lane.target !== undefined && lane.valueAt(event) !== null);
  }

  /** Takes a stroke of the pen, or a range that is dragged with Shift. */
  function pointer(event, at) {
    if (event.type === "pointerdown") {
      const lane = drawing ? laneAt(event) : null;
      if (lane) stroke = { target: lane.target, lane, points: [] };
      else if (event.shiftKey) anchor = at;
    }
    if (stroke) return drawTo(event, at);
    if (anchor === null) return false;
    setRange(Math.min(anchor, at), Math.max(anchor, at));
    if (event.type === "pointerup") anchor = null;
    return true;
  }

  function drawTo(event, at) {
    const value = stroke.lane.valueAt(event);
    if (event.type === "pointerup") {
      const { target, points } = stroke;
      stroke = null;
      if (points.length) add({ target, points: widened(points, clip.step, ends) });
      return true;
    }
    if (value === null) return true;
    const { points } = stroke;
    const kept = points.filter(([other]) => Math.abs(other - at) > clip.step / 2);
    stroke.points = [...kept, [at, Math.round(value * 1000) / 1000]].sort((one, other) => one[0] - other[0]);
    renew();
    return true;
  }

  const node = element("section", { class: "labels", "aria-label": "Labels" },
    element("div", { class: "section-head" }, element("h3", {}, "Correct labels"), status),
    element("p", { class: "note" }, "Choose a range with ", element("kbd", {}, "i"), " and ", element("kbd", {}, "o"), " at the playhead, or drag with ", element("kbd", {}, "Shift"),
      ` in the traces; then set values, between which a straight line runs, or draw. Saved to the folder ${contents.corrections}; the originals stay as they are.`),
    form, message);
  return {
    node, drawn, pointer,
    start() {
      if (clip.corrected) status.textContent = "Corrected before";
      renew();
    },
    keys: {
      i: () => setRange(state.time, range.to !== null && range.to > state.time ? range.to : null),
      o: () => setRange(range.from !== null && range.from < state.time ? range.from : null, state.time),
      d: () => pen.click(), u: () => undo.click(), s: () => save.click(),
    },
  };
}
