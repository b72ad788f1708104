"""From images and a network to class indices, scores and files of them."""
