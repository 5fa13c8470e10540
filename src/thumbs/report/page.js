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
document.querySelectorAll("figure svg").forEach(follow);
