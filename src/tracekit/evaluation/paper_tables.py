"""What the paper reports about its own predictors on its own test set (Tables 1 and 3), to print below figures of ours."""

from __future__ import annotations

from dataclasses import dataclass

HORIZONS = (8, 16, 32)


@dataclass(frozen=True)
class PaperRow:
    """One predictor of the paper, all of them given an image and a sentence."""

    name: str
    space: str
    """uv in the upper half of the tables (2D), uvz in the lower (3D). Those with "+ depth" were given depth as well."""
    figures: dict[tuple[str, int], tuple[float, float, float]]
    """By (metric, top), for the horizons 8, 16 and 32."""

    def figure(self, metric: str, top: int, horizon: int) -> float | None:
        """None where the paper has none."""
        row = self.figures.get((metric, top))
        return row[HORIZONS.index(horizon)] if row and horizon in HORIZONS else None


# top-1 and top-5 of ADE, FDE and DTW as they stand in Table 1, then of the Fréchet distance from Table 3.
_TABLES = """
uv  | Gemini-3.1-pro        | .190 .274 .305 .161 .232 .253 .311 .425 .424 .254 .321 .311 .183 .258 .284 .152 .208 .224 | .324 .467 .505 .269 .385 .416
uv  | Gemini-3-flash        | .187 .271 .299 .158 .231 .254 .312 .414 .405 .252 .329 .316 .183 .260 .281 .150 .211 .227 | .324 .467 .504 .266 .387 .417
uv  | GPT-5.5               | .199 .281 .307 .178 .249 .272 .329 .411 .404 .284 .344 .329 .196 .274 .299 .173 .238 .259 | .342 .476 .511 .299 .415 .449
uv  | Track2Act             | .209 .311 .369 .190 .262 .293 .350 .493 .555 .287 .351 .346 .206 .303 .358 .181 .245 .270 | .363 .543 .631 .304 .420 .451
uv  | Hamster               | .202 .276 .297 .178 .239 .256 .326 .400 .411 .274 .320 .330 .197 .261 .277 .170 .220 .233 | .339 .462 .505 .291 .390 .429
uv  | μ0                    | .202 .279 .315 .124 .188 .227 .322 .410 .447 .186 .261 .284 .184 .254 .296 .114 .171 .211 | .314 .446 .517 .200 .306 .370
uvz | 3DFlowAction          | .615 .692 .716 .531 .605 .630 .753 .819 .818 .648 .714 .712 .614 .688 .711 .529 .600 .623 | .765 .843 .866 .664 .747 .772
uvz | Dream2Flow + depth    | .354 .451 .505 .201 .286 .336 .497 .616 .660 .287 .378 .403 .352 .449 .500 .198 .281 .329 | .547 .710 .787 .325 .464 .530
uvz | TraceGen + depth      | .327 .416 .464 .208 .276 .325 .478 .548 .642 .267 .329 .370 .298 .375 .413 .204 .262 .299 | .450 .560 .642 .291 .395 .457
uvz | μ0                    | .209 .288 .325 .132 .199 .239 .331 .425 .464 .200 .278 .305 .191 .263 .308 .127 .187 .223 | .329 .455 .527 .210 .319 .384
"""


def paper_rows(space: str) -> list[PaperRow]:
    """The rows in (u, v) or in (u, v, z); none for other spaces."""
    return [row for row in map(_row, _TABLES.strip().splitlines()) if row.space == space]


def _row(line: str) -> PaperRow:
    space, name, *cells = (part.strip() for part in line.split("|"))
    values = [float(cell) for cell in " ".join(cells).split()]
    keys = [(metric, top) for metric in ("ade", "fde", "dtw", "frechet") for top in (1, 5)]
    triples = zip(values[0::3], values[1::3], values[2::3], strict=True)
    return PaperRow(name, space, dict(zip(keys, triples, strict=True)))
