"""Records as one self-contained page, never from a rerun.

A folder of records holds, as far as they were made (a part whose record is missing says so in one sentence):

``manifest.json``
    ``command``, ``arguments`` (object), ``seed``, ``device``, ``created``, ``versions`` (object),
    ``checksums`` (object: file to SHA-256), ``elapsed_s``, ``galaxies_per_second``.
``galaxies/<set>/``, at most a dozen galaxies each
    ``cutouts.fits``
        Written by ``Cutouts.write``. Columns ``lit_bulge_to_total``, ``lit_half_light_radius_arcsec``,
        ``lit_mag_ab``, ``lit_axis_ratio`` and ``lit_source`` of the catalogue are shown as literature values; a
        B/T whose ``lit_bt_consistent`` is false is not.
    ``prediction.safetensors``
        Written by ``Prediction.write``; same galaxies, same order.
    ``set.json``
        ``title``, ``simulated`` (true or false), ``credit``, ``licence``, ``zero_point_note`` (empty where
        magnitudes are AB), ``literature`` (object: what each ``lit_*`` column means).
    ``model.safetensors``
        The arrays of :func:`galstress.report.models.draw_models`.
    ``explanation.safetensors``
        ``maps`` (M, K, H, W) and ``correlations`` (M, K) of each map with the first; metadata, each but ``output``
        a JSON list: ``object_id`` (M), ``names`` (K: the network's own map first), ``output``.
    ``refined.safetensors``
        Written by ``Prediction.write``: refined posteriors of some of the galaxies, found by their names.
``posteriors/<name>/``, simulated galaxies beside the photon limit
    ``about.json``
        ``survey``, ``population``, ``count``, ``kept``, ``seed``, ``stamp_px``, ``network``, ``outputs`` and ``joint``
        (names), ``joint_deviation`` (object), ``band``, ``few``, ``examples`` (list of ``object_id``, ``snr``),
        ``degrees_of_freedom``, ``seconds_a_galaxy`` (object).
    ``galaxies.parquet``
        A row a galaxy: ``object_id``, ``snr`` (measured), ``effective_samples``, ``chi_square``, ``flags``, and for
        each output ``_true``, ``_network``, ``_refined`` (posterior means in the terms of their errors: logarithms of
        radii and fluxes), each of the two with ``_std`` and ``_pit``, ``_bayes`` and ``_cramer_rao`` (limits).
    ``errors.parquet``
        :func:`galstress.studies.posteriors.compare_errors`.
    ``coverage.parquet``, ``joint.parquet``
        :func:`galstress.scores.coverage_curve` and the curve of :func:`galstress.scores.tarp`, with ``who``.
    ``draws.safetensors``
        Of the examples: ``network``, ``refined``, ``fit`` (G, n, K) draws, ``truth`` (G, K).
``studies/<name>/``, each as ``galstress study`` wrote it; others are named to :func:`build_report`
    ``summary.json``
        ``study`` (name), ``sentence`` (the answer), ``command``; of what else it holds, numbers, words and objects of
        these become a table of settings, and each list of such objects a table of its own.
    ``<figure>.svg`` or ``.png``, and ``<figure>-dark``
        Figures for both themes.
``stress.parquet``
    The table of :func:`galstress.battery.stress`, with ``survey`` where there are several, and ``averaged``
    (turns, or 0) where one pass and averaged predictions are both there.
``accuracy.parquet``, ``coverage.parquet``
    :func:`galstress.scores.accuracy_table` (binned by ``snr``) and :func:`galstress.scores.coverage_table`, with
    ``survey``, ``population`` and ``neighbours`` (true or false) where there are several.
``film.json``, ``film.safetensors``, and any ``film-<name>`` after it
    ``title``, ``object_id``, ``outputs`` (K names), ``pixel_scale_arcsec``, ``sky_rms``, ``truth`` (output to
    value, or null), ``fps``; arrays ``image`` (T, H, W), ``angle_deg`` (T,), ``quantiles`` (5, T, K) at 2.5, 16,
    50, 84 and 97.5 %.
``domain.parquet``
    A sample of the training population: ``mag``, ``radius_arcsec``, ``bulge_to_total``.
``training.json``
    ``loss_step`` and ``loss`` (lists), ``steps``, ``galaxies``, ``time_s``, ``population``, ``seed``, ``parameters``.
"""

from galstress.report.models import draw_models
from galstress.report.page import build_report
from galstress.report.records import Records, read_records

__all__ = ["Records", "build_report", "draw_models", "read_records"]
