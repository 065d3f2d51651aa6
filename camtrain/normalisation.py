"""Mean and deviation of red, green and blue over ImageNet's images, 0..1: what torchvision's weights expect."""

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
