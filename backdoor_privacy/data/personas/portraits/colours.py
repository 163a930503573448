"""Mix colours."""

Colour = tuple[int, int, int]  # red, green and blue in 0..255


def mix(first: Colour, second: Colour, part: float) -> Colour:
    """Return the colour that lies `part` of the way from the first to the second."""
    return (
        _channel(first[0] + (second[0] - first[0]) * part),
        _channel(first[1] + (second[1] - first[1]) * part),
        _channel(first[2] + (second[2] - first[2]) * part),
    )


def _channel(value: float) -> int:
    return int(value) if 0 <= value <= 255 else 0 if value < 0 else 255


def tone(colour: Colour, factor: float) -> Colour:
    """Return a darker (factor below 1) or lighter colour of the same hue."""
    return mix(colour, (255, 246, 236), factor - 1) if factor > 1 else mix((28, 8, 14), colour, factor)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Return the colour of a hue (0..1 once around the circle), a saturation and a value."""
    wheel = [abs((hue * 6 + offset) % 6 - 3) - 1 for offset in (0, 4, 2)]
    red, green, blue = (int(255 * value * (1 - saturation + saturation * min(1.0, max(0.0, w)))) for w in wheel)
    return red, green, blue


def is_dark(colour: Colour) -> bool:
    """Return whether a colour is darker than mid grey."""
    return sum(colour) < 330
