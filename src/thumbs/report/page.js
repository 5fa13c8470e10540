"use strict";
// The values of a figure under the mouse, under a finger, and by the arrow keys.
function follow(svg) {
  const marks = [...svg.querySelectorAll(".mark")].map((mark) => {
    const title = mark.querySelector("title");
    const found = { mark, x: +mark.getAttribute("cx"), y: +mark.getAttribute("cy"), said: title.textContent };
    title.remove();
    return found;
  });
  if (!marks.length) return;
  marks.sort((a, b) => a.x - b.x || a.y - b.y);
  const shown = document.createElement("output");
  shown.className = "value";
  svg.after(shown);
  let at = -1;
  const show = (i) => {
    if (at >= 0) marks[at].mark.classList.remove("on");
    at = Math.max(0, Math.min(marks.length - 1, i));
    marks[at].mark.classList.add("on");
    shown.textContent = marks[at].said;
    svg.setAttribute("aria-valuenow", at + 1);
    svg.setAttribute("aria-valuetext", marks[at].said);
  };
  for (const [name, value] of Object.entries({ tabindex: 0, role: "slider", "aria-valuemin": 1, "aria-valuemax": marks.length, "aria-valuenow": 1 }))
    svg.setAttribute(name, value);
  const nearest = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = (m) => Math.hypot(m.x - place.x, (m.y - place.y) / 2);
    show(marks.reduce((best, m, i) => (far(m) < far(marks[best]) ? i : best), 0));
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("focus", () => at < 0 && show(0));
  svg.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: marks.length }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}
// While the run goes on: what has changed on the page is put in the place of what was there.
const parts = (page) => [...page.querySelectorAll("header, nav, section")];
const name = (part) => part.id || part.tagName;
function watch(seen, tag) {
  setTimeout(async () => {
    const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {} }).catch(() => null);
    if (!answer || answer.status !== 200) return watch(seen, tag);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = new Map(parts(page).map((part) => [name(part), part.outerHTML]));
    const all = [...now.keys()].join() !== [...seen.keys()].join();
    const old = all ? [document.body] : parts(document).filter((part) => now.get(name(part)) !== seen.get(name(part)));
    for (const part of old) {
      const next = all ? page.body : parts(page).find((other) => name(other) === name(part));
      const open = [...part.querySelectorAll("details")].map((details) => details.open);
      next.querySelectorAll("details").forEach((details, i) => (details.open = open[i] ?? details.open));
      part.replaceWith(next);
      next.querySelectorAll("figure svg").forEach(follow);
    }
    if ("live" in page.documentElement.dataset) watch(now, answer.headers.get("ETag"));
  }, 2000);
}
const first = new Map(parts(document).map((part) => [name(part), part.outerHTML]));
document.querySelectorAll("figure svg").forEach(follow);
if ("live" in document.documentElement.dataset) watch(first);
