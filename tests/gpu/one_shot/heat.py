"""Does a minute of load heat the card, and do its sensors tell so?"""

from __future__ import annotations

import sys

from one_shot.piece import Piece, last, value


def main() -> int:
    piece = Piece("heat")
    run, code, errors = piece.rigbench("thermals", "--minutes", "0.1" if piece.tiny else "1")
    room = run.get("thermals") or {}
    if room.get("type") != "thermals":
        piece.learn(f"no heat test, exit {code}: {room.get('reason') or last(errors)}", off=True)
        return piece.end()
    for card in room["cards"]:
        steady = card["steady"]
        keys = ("name", "start_celsius", "peak_celsius", "hot_over_cold", "flop_per_joule", "fit", "notes")
        piece.row(exit=code, steady=steady, **{key: card[key] for key in keys if key in card})
        peak, hot = value(card["peak_celsius"]), value(card.get("hot_over_cold"))
        watts, clock = (value(steady.get(key)) for key in ("watts", "sm_clock_hertz"))
        told = [f"peak {peak:.0f} °C"] if peak else []
        told += [f"{watts:.0f} W"] if watts else []
        told += [f"{clock / 1e6:.0f} MHz"] if clock else []
        told += [f"hot over cold {hot:.3f}"] if hot else []
        piece.learn(
            f"{', '.join(told)}; {'; '.join(card.get('notes', []))}", off=not (peak and watts and clock and hot)
        )
    for note in room.get("notes", []):
        piece.learn(note)
    if code != 0:
        piece.learn(f"exit {code}: {last(errors)}", off=True)
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
