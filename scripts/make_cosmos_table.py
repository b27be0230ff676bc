"""Derive ``src/galstress/tables/cosmos.ecsv`` from the COSMOS F814W structural catalogue.

    python scripts/make_cosmos_table.py CATALOGUE.fits.gz

The catalogue is the GalSim COSMOS F814W < 23.5 sample with Sersic fits by C. Lackner. Kept
are MAG_AUTO (the fits' own magnitudes are no totals), the circularised half-light radius
(``ser_re`` is semi-major), the Sersic index and the axis ratio, of a random 4,000 of the
galaxies whose fit did not run into its limits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from astropy.table import QTable, Table

ROWS, SEED = 4000, 814


def main() -> None:
    """Read the catalogue named on the command line, write the table."""
    catalogue = Table.read(sys.argv[1])
    index, radius, ratio = (np.asarray(catalogue[name], float) for name in ("ser_n", "ser_re_arcsec", "ser_q"))
    magnitude = np.asarray(catalogue["MAG_AUTO"], float)
    good = (index > 0.3) & (index < 5.95) & (ratio > 0.08) & (ratio <= 1) & (magnitude > 14) & (magnitude < 23.5)
    circular = radius * np.sqrt(ratio)
    good &= (circular > 0.05) & (circular < 6)
    rows = np.sort(np.random.default_rng(SEED).choice(np.flatnonzero(good), ROWS, replace=False))
    table = QTable()
    table["mag_ab"] = np.round(magnitude[rows], 2)
    table["half_light_radius_arcsec"] = np.round(circular[rows], 4)
    table["sersic_index"] = np.round(np.clip(index[rows], 0.5, None), 3)
    table["axis_ratio"] = np.round(ratio[rows], 3)
    table.meta["comments"] = [
        f"{ROWS} of {int(good.sum())} galaxies of COSMOS, F814W < 23.5 (HST/ACS; Koekemoer et al. 2007, GalSim sample)",
        f"seed {SEED}; made by scripts/make_cosmos_table.py",
    ]
    target = Path(__file__).parent.parent / "src" / "galstress" / "tables" / "cosmos.ecsv"
    table.write(target, format="ascii.ecsv", overwrite=True)


if __name__ == "__main__":
    main()
