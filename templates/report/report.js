"use strict";
// Draws the charts that the page holds as JSON. Text reaches the page as text alone, never as HTML.
(() => {
  const groups = JSON.parse(document.getElementById("charts").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const drawn = [];

  const digits = (value) => String(Number(value.toPrecision(5)));
  const shown = (u, value) => (value == null ? "" : digits(value));
  const two = (number) => String(number).padStart(2, "0");

  // 24 hours and ISO days, in UTC, at the fineness of what is on the axis.
  function moment(seconds, step) {
    const at = new Date(seconds * 1e3);
    const day = `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`;
    if (step >= 86400) return day;
    const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}` + (step < 60 ? `:${two(at.getUTCSeconds())}` : "");
    return time === "00:00" ? day : time;
  }

  function seriesOf(line) {
    if (line.role === "edge") {
      return { label: line.label, stroke: "transparent", width: 0, points: { show: false }, value: shown, class: "edge" };
    }
    const ink = colour(line.role);
    const series = { label: line.label, stroke: ink, width: line.role === "model" ? 2 : 1.5, value: shown };
    if (line.role === "baseline" && !line.points) series.dash = [5, 4];
    if (line.points) series.points = { show: true, size: 5, fill: ink };
    if (line.points && line.role === "baseline") series.paths = () => null;
    return series;
  }

  function axes(chart) {
    const common = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } };
    const x = { ...common, label: chart.x_label, labelSize: 22, size: 34, space: 80 };
    if (chart.x_kind === "time") x.values = (u, splits, axis, space, step) => splits.map((at) => moment(at, step));
    const y = { ...common, size: (u, values) => 24 + 7 * Math.max(3, ...(values || []).map((v) => String(v).length)) };
    y.values = (u, splits) => splits.map((value) => (value == null ? "" : digits(value)));
    if (chart.y_label) Object.assign(y, { label: chart.y_label, labelSize: 20 });
    return [x, y];
  }

  function range(chart) {
    return (u, low, high) => {
      if (low == null) return [0, 1];
      if (chart.y_most != null) return [0, chart.y_most];
      const bottom = chart.y_from_zero ? Math.min(0, low) : low;
      const room = (high - bottom || Math.abs(high) || 1) * 0.06;
      return [chart.y_from_zero && low >= 0 ? 0 : bottom - room, high + room];
    };
  }

  function xValue(chart, at) {
    if (at == null) return "";
    if (chart.x_kind !== "time") return digits(at);
    return new Date(at * 1e3).toISOString().slice(0, 19).replace("T", " ");
  }

  function draw(place, chart) {
    const bands = chart.bands.map(([upper, lower]) => ({ series: [upper + 1, lower + 1], fill: colour("band") + "2e" }));
    const options = {
      width: Math.max(200, place.clientWidth),
      height: 240,
      series: [{ label: chart.x_label, value: (u, at) => xValue(chart, at), class: "place" }, ...chart.lines.map(seriesOf)],
      bands,
      axes: axes(chart),
      scales: { x: { time: chart.x_kind === "time" }, y: { range: range(chart) } },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
      legend: { markers: { width: 2 } },
      cursor: { y: false },
    };
    const plot = new uPlot(options, [chart.x, ...chart.lines.map((line) => line.values)], place);
    place.dataset.drawn = String(chart.x.length);
    return plot;
  }

  function drawAll() {
    while (drawn.length) drawn.pop().plot.destroy();
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      const chart = groups[figure.dataset.chart][Number(figure.dataset.number)];
      const place = figure.querySelector(".plot");
      drawn.push({ place, plot: draw(place, chart) });
    }
  }

  function fit() {
    for (const { place, plot } of drawn) plot.setSize({ width: Math.max(200, place.clientWidth), height: 240 });
  }

  drawAll();
  addEventListener("resize", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
})();
