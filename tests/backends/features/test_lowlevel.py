import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tracekit.backends.features.lowlevel import Lowlevel
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.registry import load


def describe(*frames):
    return Lowlevel(BackendSetup()).describe(np.stack(frames)).features


def plain(colour, height=240, width=320):
    return np.full((height, width, 3), colour, np.uint8)


def cosine(left, right):
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def stripes(period, angle=0.0):
    row, column = np.mgrid[:240, :320]
    wave = np.sin(2 * np.pi / period * (column * np.cos(angle) + row * np.sin(angle)))
    return np.repeat((128 + 60 * wave)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(480, 640, 30, 40), (406, 724, 22, 40), (640, 360, 40, 22), (1, 9, 1, 2), (16, 16, 4, 4)]
)
def test_the_grid_has_forty_patches_across_and_keeps_them_square(height, width, rows, columns):
    features = describe(plain((10, 20, 30), height, width), plain((1, 2, 3), height, width))
    assert features.shape[:3] == (2, rows, columns)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


@pytest.mark.parametrize("shape", [(240, 320), (233, 331)])
def test_a_patch_describes_its_own_place(shape):
    """A bright square changes the features of the patches it covers, and no others beyond their neighbours."""
    dark = plain((40, 40, 40), *shape)
    rows, columns = describe(dark).shape[1:3]
    for row, column in ((0, 0), (rows - 1, columns - 1), (7, 12)):
        lit = dark.copy()
        top, bottom = round(row * shape[0] / rows), round((row + 1) * shape[0] / rows)
        left, right = round(column * shape[1] / columns), round((column + 1) * shape[1] / columns)
        lit[top:bottom, left:right] = 220
        change = np.linalg.norm(describe(lit)[0] - describe(dark)[0], axis=-1)
        assert np.unravel_index(change.argmax(), change.shape) == (row, column)
        change[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        assert change.max() < 1e-4


def test_all_descriptors_have_the_same_length_so_that_cosines_compare():
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    lengths = np.linalg.norm(describe(noise, plain((0, 0, 0)), plain((255, 255, 255))), axis=-1)
    np.testing.assert_allclose(lengths, lengths[0, 0, 0], rtol=1e-5)


def test_similarity_falls_with_difference_of_colour():
    red, reddish, blue = (describe(plain(colour))[0, 10, 10] for colour in ((200, 40, 40), (190, 60, 50), (40, 50, 210)))
    assert cosine(red, red) == pytest.approx(1)
    assert cosine(red, reddish) > 0.95 > 0.5 > cosine(red, blue)


def test_no_two_colours_that_differ_much_look_alike():
    """Statistics become angles: none may turn so far that it comes round again."""
    colours = [np.array(colour, np.uint8) for colour in itertools.product((0, 128, 255), repeat=3)]
    described = [describe(plain(colour, 40, 40))[0, 5, 5] for colour in colours]
    lab = cv2.cvtColor(np.float32(colours)[None] / 255, cv2.COLOR_RGB2LAB)[0]
    for (i, left), (j, right) in itertools.combinations(enumerate(described), 2):
        distance = np.linalg.norm(lab[i] - lab[j])
        assert cosine(left, right) < (0.75 if distance > 120 else 0.95 if distance > 60 else 1.0)


def test_texture_and_its_direction_tell_patches_of_one_colour_apart():
    images = plain((128,) * 3), stripes(5), stripes(10), stripes(10.5), stripes(10, np.pi / 2)
    smooth, fine, coarse, like_coarse, turned = (describe(image)[0, 4:-4, 4:-4].mean(axis=(0, 1)) for image in images)
    assert cosine(smooth, fine) < 0.99
    assert cosine(coarse, turned) < 0.998 < 0.9995 < cosine(coarse, like_coarse)


def test_a_patch_that_two_things_share_sides_with_the_larger():
    split = plain((200, 40, 40))
    split[:, 82:] = (40, 50, 210)  # the patch of columns 80 to 87 is one quarter red
    features, blue, red = describe(split)[0], describe(plain((40, 50, 210)))[0, 10, 10], describe(plain((200, 40, 40)))[0, 10, 10]
    assert cosine(features[10, 10], blue) > 0.9 > cosine(features[10, 10], red)


def test_a_frame_is_described_alike_alone_and_among_others():
    frames = np.random.default_rng(1).integers(0, 256, (3, 96, 128, 3)).astype(np.uint8)
    np.testing.assert_array_equal(describe(*frames)[1], describe(frames[1])[0])


def test_resolution_hardly_matters():
    image = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (480, 640, 3)).astype(np.uint8), (0, 0), 12)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    large, small = describe(image)[0], describe(cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA))[0]
    alike = (large * small).sum(axis=-1) / (np.linalg.norm(large, axis=-1) * np.linalg.norm(small, axis=-1))
    assert alike.min() > 0.97


def test_no_frames_give_no_features():
    assert Lowlevel(BackendSetup()).describe(np.zeros((0, 48, 64, 3), np.uint8)).features.shape[0] == 0


def test_it_is_registered_and_needs_nothing():
    assert load("features", "lowlevel") is Lowlevel
    assert Lowlevel.missing(BackendSetup()) is None
    assert Lowlevel(BackendSetup()).weights_sha256() == ""


def test_the_embedded_path_imports_no_network_library():
    code = (
        "import sys, numpy as np\n"
        "from tracekit.backends.features.lowlevel import Lowlevel\n"
        "from tracekit.backends.protocols import BackendSetup\n"
        "from tracekit.extract.keypoints import KeypointsParameters, select_keypoints\n"
        "from tracekit.report import Report\n"
        "frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)\n"
        "select_keypoints(frames, Lowlevel(BackendSetup()), KeypointsParameters(), seed=0, report=Report())\n"
        "heavy = {'torch', 'timm', 'transformers', 'sklearn', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
