// Shows the values under the pointer. All there is to see without it is in the page.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const { x, series } = JSON.parse(svg.dataset.chart);
  const pointed = svg.querySelector(".pointed");
  const tip = svg.parentElement.querySelector(".tip");
  const { width, height } = svg.viewBox.baseVal;
  const draw = (name, attributes) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) mark.setAttribute(key, attributes[key]);
    pointed.append(mark);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const nearest = series.map(({ points }) =>
      points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)));
    pointed.replaceChildren();
    draw("line", { class: "rule", x1: nearest[0][0], x2: nearest[0][0], y1: 8, y2: height - 26 });
    nearest.forEach(([cx, cy], i) => draw("circle", { class: `s${i}`, cx, cy, r: 4 }));
    tip.textContent = [`${x} ${nearest[0][2]}`,
      ...nearest.map((point, i) => `${series[i].label} ${point[3]}`)].join("\n");
    tip.style.left = at > width / 2 ? "4rem" : "auto";
    tip.style.right = at > width / 2 ? "auto" : "0.8rem";
    tip.hidden = false;
  });
  svg.addEventListener("pointerleave", () => {
    pointed.replaceChildren();
    tip.hidden = true;
  });
}
