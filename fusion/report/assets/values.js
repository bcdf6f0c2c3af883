// Values: the data of the page, arrays out of base64, numbers as text, and elements made without any markup.

const contents = JSON.parse(document.getElementById("contents").textContent);
const COLOURS = ["blue", "orange", "green", "pink", "yellow", "grey"];
const DASHES = ["", "7 4", "2 4", "9 3 2 3"];

/** Makes an element. Text becomes text nodes, so that no name of a clip is ever read as markup. */
function element(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

function fill(node, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.entries(value).forEach(([name, text]) => node.style.setProperty(name, text));
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** int16 of ten-thousandths -> numbers, null where missing. */
function levels(text) {
  return Array.from(new Int16Array(bytes(text).buffer), (value) => (value === -32768 ? null : value / 10000));
}

/** Bytes of 1 / 250 -> numbers, null where missing. */
function shares(text) {
  return Array.from(bytes(text), (value) => (value === 255 ? null : value / 250));
}

function known(value) {
  return value !== null && value !== undefined && Number.isFinite(value);
}

function number(value, digits = 3) {
  return known(value) ? value.toFixed(digits).replace("-", "−") : "–";
}

function signed(value, digits = 3) {
  return known(value) && value >= 0 ? `+${number(value, digits)}` : number(value, digits);
}

function interval(part, digits = 2, form = number) {
  return known(part.low) ? `[${form(part.low, digits)}, ${form(part.high, digits)}]` : "no interval";
}

function count(value) {
  return value.toLocaleString("en");
}

function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** The value of a colour of the style sheet as the canvas needs it. */
function colourOf(name) {
  const probe = element("span", { style: { color: `var(--${name})`, display: "none" } });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

/** Round numbers from low to high, about `wanted` of them. */
function ticks(low, high, wanted = 5) {
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * power).find((part) => part >= rough * 0.999);
  const places = [];
  for (let place = Math.ceil(low / step - 1e-9) * step; place <= high + step * 1e-6; place += step) {
    places.push(Math.abs(place) < step * 1e-6 ? 0 : place);
  }
  return places;
}

function tickText(value) {
  return String(+value.toPrecision(6)).replace("-", "−");
}
