"""Fine-tuning of a pretrained backbone, end to end, for classification (paper, section 4.1)."""
