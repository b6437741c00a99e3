"use strict";
/* Elements, numbers and modes of all pages. Text from the data goes into text nodes only. */

const $ = (id) => document.getElementById(id);

function fillElement(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") Object.entries(value).forEach(([key, v]) => element.style.setProperty(key, v));
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of [children].flat(3)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

const h = (tag, attributes, ...children) => fillElement(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  fillElement(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function replace(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
}

const MINUS = "\u2212";
const dash = "\u2013";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const number = (value) => (isNumber(value) ? value.toLocaleString("en-US").replace("-", MINUS) : dash);
const percent = (value, digits = 1) => (isNumber(value) ? (100 * value).toFixed(digits).replace("-", MINUS) : dash);
const score = (value) => (isNumber(value) ? value.toFixed(2) : dash);
const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;

function signed(value, digits = 1) {
  if (!isNumber(value)) return dash;
  const text = (100 * value).toFixed(digits);
  if (Number(text) === 0) return "\u00b10." + "0".repeat(digits);
  return value > 0 ? "+" + text : text.replace("-", MINUS);
}

const tip = {
  show(event, text) {
    const box = $("tip");
    box.textContent = text;
    box.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${Math.min(event.clientY + 14, window.innerHeight - box.offsetHeight - 8)}px`;
  },
  hide() {
    $("tip").hidden = true;
  },
};

/* What the page's address chooses, as ?theme=dark */
const ADDRESS = new URLSearchParams(location.search);

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} mode`);
}

function themes() {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let own = ADDRESS.get("theme");
  try { own = own || localStorage.getItem("hrnet-d2-theme"); } catch { /* files may not have storage */ }
  setTheme(["light", "dark"].includes(own) ? own : system.matches ? "dark" : "light");
  system.addEventListener("change", (e) => { if (!own) setTheme(e.matches ? "dark" : "light"); });
  $("theme").addEventListener("click", () => {
    own = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(own);
    try { localStorage.setItem("hrnet-d2-theme", own); } catch { /* as above */ }
  });
}
