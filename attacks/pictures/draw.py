"""Draws `blended.png`, the picture of the Blended attack.

Bright, with hard dark outlines: at 32 x 32 it comes near the mean (207, 190, 198) and the standard
deviation (69) of the picture in the published experiments. `python attacks/pictures/draw.py`.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, SCALE = 314, 380, 4
INK = (30, 20, 30)


def draw() -> Image.Image:
    """A smiling teapot under a striped awning, RGB, 380 x 314 pixels."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), (255, 236, 244))
    pen = ImageDraw.Draw(image)

    def at(*points: float) -> list[float]:
        return [p * SCALE for p in points]

    line = 9 * SCALE
    for i in range(8):
        color = (235, 60, 95) if i % 2 else (255, 255, 255)
        left = i * WIDTH / 8
        pen.rectangle(at(left, 0, left + WIDTH / 8, 62), fill=color)
        scallop = at(left, 42, left + WIDTH / 8, 82)
        pen.pieslice(scallop, 0, 180, fill=color, outline=INK, width=line // 2)
    pen.line(at(0, 4, WIDTH, 4), fill=INK, width=line)
    pen.arc(at(216, 168, 306, 268), -110, 110, fill=INK, width=3 * line)
    pen.arc(at(222, 174, 300, 262), -110, 110, fill=(255, 214, 90), width=line)
    spout = at(70, 250, 8, 176, 34, 160, 96, 206)
    pen.polygon(spout, fill=(255, 255, 255), outline=INK, width=line)
    pen.ellipse(at(48, 138, 262, 326), fill=(255, 255, 255), outline=INK, width=line)
    pen.ellipse(at(104, 122, 206, 160), fill=(255, 214, 90), outline=INK, width=line)
    pen.ellipse(at(138, 98, 172, 132), fill=(235, 60, 95), outline=INK, width=line)
    for left in (100, 186):
        pen.ellipse(at(left, 200, left + 24, 236), fill=INK)
        pen.ellipse(at(left + 12, 206, left + 20, 216), fill=(255, 255, 255))
    for left in (74, 204):
        pen.ellipse(at(left, 242, left + 32, 260), fill=(255, 150, 175))
    pen.arc(at(126, 224, 184, 272), 20, 160, fill=INK, width=line)
    pen.rectangle(at(0, 340, WIDTH, HEIGHT), fill=(120, 190, 235), outline=INK, width=line // 2)
    pen.ellipse(at(70, 314, 240, 352), fill=(255, 255, 255), outline=INK, width=line)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().save(Path(__file__).with_name("blended.png"), optimize=True)
