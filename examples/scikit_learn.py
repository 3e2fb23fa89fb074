"""scikit-learn's own tools on images: 300 of its handwritten digits, cross-validated."""

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score

import tlkit

digits = load_digits()
images = (digits.images[:300, :, :, None] * 15.9).astype("uint8")  # 8 × 8 pixels, 0 to 255

classifier = tlkit.TransferClassifier(head="probe", optimizer="lbfgs", epochs=6)
classifier.set_params(backbone__image_size=32)
print(cross_val_score(classifier, images, digits.target[:300], cv=3))
