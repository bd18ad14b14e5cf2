"""scikit-learn's embedded handwritten digits, 8x8 pixels: a run of minutes on a laptop's CPU."""

from ibot_jax.config import get_config as default_config


def get_config():
    """Returns the config."""
    config = default_config()
    config.duration = "60 epochs"
    config.batch_size = 64
    config.dtype = "float32"
    config.model.update(dict(width=64, depth=4, heads=4, patch_size=4, drop_path=0.0))
    config.head.update(
        dict(hidden_dim=256, bottleneck_dim=64, prototypes=256, patch_prototypes=256)
    )
    config.loss.teacher_temp_warmup = "10 epochs"
    config.optim.update(dict(lr=4e-3, warmup="5 epochs"))
    config.data.update(
        dict(
            source="digits",
            channels=1,
            mean=(0.3,),
            std=(0.37,),
            global_size=(16, 16),
            local_views=2,
            local_size=(8, 8),
            flip=0.0,  # a mirrored digit is no digit
            jitter=0.0,
            gray=0.0,
            blur=(0.0, 0.0, 0.0),
            solarize=(0.0, 0.0, 0.0),
        )
    )
    config.knn.resize = 16
    config.log_every = "5 epochs"
    config.checkpoint.every = "10 epochs"
    return config
