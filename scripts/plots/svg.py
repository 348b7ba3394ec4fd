"""Small SVG charts from the standard library alone: scatter with connected series, and horizontal bars."""

import html
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 460, 70, 170, 50, 60
COLORS = ["#1f6fb4", "#d9641e", "#2e9348", "#b0302f", "#7a52a8", "#7d5a4a", "#c2569f", "#6b6b6b"]


def text(x, y, content, anchor="start", size=12, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{html.escape(str(content))}</text>'


def document(width, height, title, body):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', text(20, 26, title, size=16), *body, "</svg>\n"])


def ticks(low, high, log):
    if log:
        candidates = [m * 10**e for e in range(-12, 13) for m in (1, 2, 5)]
        return [c for c in candidates if low <= c <= high]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(s * step for s in (1, 2, 5, 10) if (high - low) / (s * step) <= 6)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def bounds(values, log):
    low, high = min(values), max(values)
    if log:
        return low / 1.15, high * 1.15
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1
    return low - pad, high + pad


def scatter(series, title, x_label, y_label, log_y=False):
    """series: {name: [(x, y, label), ...]}; points of a series are joined in the order of x."""
    points = [p for s in series.values() for p in s]
    x_low, x_high = bounds([p[0] for p in points], False)
    y_low, y_high = bounds([p[1] for p in points], log_y)
    scale = math.log if log_y else float
    span_x, span_y = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x, y):
        return LEFT + (x - x_low) / (x_high - x_low) * span_x, TOP + (1 - (scale(y) - scale(y_low)) / (scale(y_high) - scale(y_low))) * span_y

    body = [f'<rect x="{LEFT}" y="{TOP}" width="{span_x}" height="{span_y}" fill="none" stroke="#999"/>']
    for t in ticks(x_low, x_high, False):
        x, _ = at(t, y_low)
        body += [f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + span_y}" stroke="#e5e5e5"/>', text(x, TOP + span_y + 18, f"{t:g}", "middle")]
    for t in ticks(y_low, y_high, log_y):
        _, y = at(x_low, t)
        body += [f'<line x1="{LEFT}" x2="{LEFT + span_x}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>', text(LEFT - 8, y + 4, f"{t:g}", "end")]
    body += [text(LEFT + span_x / 2, HEIGHT - 16, x_label, "middle"), text(18, TOP + span_y / 2, y_label, "middle", 12, f'transform="rotate(-90 18 {TOP + span_y / 2})"')]
    for index, (name, values) in enumerate(series.items()):
        color, values = COLORS[index % len(COLORS)], sorted(values)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(p[0], p[1]) for p in values))
        body.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-opacity="0.5"/>')
        for p in values:
            x, y = at(p[0], p[1])
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>{html.escape(str(p[2]))}: {p[0]:g}, {p[1]:g}</title></circle>')
        y = TOP + 14 + 20 * index
        body += [f'<circle cx="{WIDTH - RIGHT + 18}" cy="{y - 4}" r="5" fill="{color}"/>', text(WIDTH - RIGHT + 30, y, name)]
    return document(WIDTH, HEIGHT, title, body)


def bars(rows, title, unit):
    """rows: [(label, value, group)]; one bar a row, colored by group."""
    line, left, width = 18, 300, 900
    groups = list(dict.fromkeys(r[2] for r in rows))
    largest = max((r[1] for r in rows), default=1) or 1
    height = 60 + line * len(rows) + 30
    body = []
    for index, (label, value, group) in enumerate(rows):
        y, length = 50 + line * index, value / largest * (width - left - 110)
        color = COLORS[groups.index(group) % len(COLORS)]
        body += [text(left - 8, y + 12, label, "end", 11), f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="{line - 5}" fill="{color}"/>', text(left + length + 6, y + 12, f"{value:.4g} {unit}", "start", 11)]
    for index, group in enumerate(groups):
        x = 20 + (width - 40) / len(groups) * index
        body += [f'<rect x="{x:.1f}" y="{height - 20}" width="10" height="10" fill="{COLORS[index % len(COLORS)]}"/>', text(x + 14, height - 11, group, size=11)]
    return document(width, height, title, body)
