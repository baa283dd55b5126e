"""How similar images are to photos of the subject, whichever judge computed the features."""

from torch import Tensor


def mean_similarity(
    images: Tensor,  # (images, width), of unit length
    photos: Tensor,  # (photos, width), of unit length
) -> Tensor:  # (images,)
    """Return the mean cosine of each image's features with those of all photos.

    This is CLIP-I and DINO in scores, in fidelity, and of a training's samples.
    """
    return (images @ photos.T).mean(dim=-1)
