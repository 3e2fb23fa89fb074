"""scikit-learn's own tools on images: 300 of its handwritten digits, cross-validated."""

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score

import tlkit

digits = load_digits()
images = (digits.images[:300, :, :, None] * 15.9).astype("uint8")  # 8 × 8 pixels, 0 to 255

vgg16 = {"name": "vgg16", "weights": ["imagenet", "bsds500"], "image_size": 32}
classifier = tlkit.TransferClassifier(vgg16, head="linear", epochs=30, random_state=0)
print(cross_val_score(classifier, images, digits.target[:300], cv=3))
