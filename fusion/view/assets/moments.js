// Moments to look at: the largest errors, and where the gate switched to another stream.

const LEAST_LEAD_S = 0.5; // a shorter lead of a stream is no switch

/** Steps at which another stream begins to have the largest weight, and keeps it for half a second. */
function gateSwitches(clip) {
  if (!clip.weights || clip.weights.length < 2) return [];
  const leads = [];
  clip.times.forEach((_, k) => {
    const shares = clip.weights.map((column) => (known(column[k]) ? column[k] : -1));
    const stream = shares.indexOf(Math.max(...shares));
    const last = leads[leads.length - 1];
    if (last && last.stream === stream) last.end = k + 1;
    else leads.push({ stream, start: k, end: k + 1 });
  });
  const switches = [];
  let leader = null;
  for (const { stream, start, end } of leads) {
    if ((end - start) * clip.step < LEAST_LEAD_S || stream === leader) continue;
    if (leader !== null) switches.push({ index: start, stream });
    leader = stream;
  }
  return switches;
}

function diamond(x, stream) {
  return svg("path", { d: `M${x - 5} 8L${x} 3L${x + 5} 8L${x} 13Z`, style: { fill: `var(--${STREAM_COLOURS[stream % STREAM_COLOURS.length]})` } });
}

function cross(x) {
  return svg("path", { d: `M${x - 4.5} 4L${x + 4.5} 12M${x - 4.5} 12L${x + 4.5} 4`, style: { stroke: "var(--ink)" }, "stroke-width": 1.8, fill: "none" });
}

/** A lane with a mark at each moment, and the buttons and keys that lead there. */
function momentsOf({ clip, state, moveTo }) {
  const switches = gateSwitches(clip);
  const errors = worstPlaces(clip);
  const jump = (forward) => {
    if (!switches.length) return;
    const places = switches.map(({ index }) => index);
    const next = forward ? places.find((index) => index > state.index) : places.findLast((index) => index < state.index);
    moveTo(next ?? (forward ? places[0] : places[places.length - 1]));
  };
  const high = 16;
  const paint = (across, { plot }) => {
    const at = (index) => Math.min(Math.max(across(clip.times[index]), 6), plot - 6);
    const isShown = ({ index }) => across(clip.times[index]) >= 0 && across(clip.times[index]) <= plot;
    return [...switches.filter(isShown).map((one) => diamond(at(one.index), one.stream)), ...errors.map((index) => ({ index })).filter(isShown).map(({ index }) => cross(at(index)))];
  };
  const label = `Moments: ${plural(errors.length, "large error")}, the gate switches ${plural(switches.length, "time")}.`;
  const title = heading("moments", []);
  title.append(element("span", {}, "✕ largest errors"), switches.length ? element("span", {}, "◆ the gate switches to the stream of this colour") : "");
  const button = element("button", { class: "button", type: "button", "data-action": "switch", title: "Jump to where the gate switched (g; back with G)",
    onclick: () => jump(true) }, "Gate switch");
  return {
    lane: errors.length || switches.length ? svgLane(title, label, high, paint) : null,
    buttons: switches.length ? [button] : [],
    keys: switches.length ? { g: () => jump(true), G: () => jump(false) } : {},
  };
}
