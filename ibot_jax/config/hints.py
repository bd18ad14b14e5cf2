"""Hints at the key that is meant, where a name is none of ours."""

import difflib
from collections.abc import Iterable

# Of the original, timm, Lightning and transformers, and common words.
KNOWN_AS = {
    "duration": "epochs num_epochs max_epochs n_epochs steps max_steps",
    "batch_size": "batch bs global_batch_size batch_size_per_gpu train_batch_size",
    "grad_accum_steps": "accumulate_grad_batches gradient_accumulation_steps accum_steps",
    "dtype": "precision use_fp16 fp16 bf16 amp mixed_precision",
    "init_from": "pretrained resume checkpoint_path load_from init",
    "model.width": "embed_dim hidden_size dim embedding_dim",
    "model.depth": "layers num_layers n_blocks num_blocks",
    "model.heads": "num_heads n_heads",
    "model.window": "window_size",
    "model.norm_eps": "layer_norm_eps eps epsilon",
    "model.ffn": "ffn_layer mlp_layer use_gated_mlp",
    "model.hidden_dim": "intermediate_size mlp_dim",
    "model.registers": "num_register_tokens n_storage_tokens reg_tokens register_tokens",
    "model.pos_offset": "interpolate_offset",
    "model.pos_antialias": "interpolate_antialias",
    "model.rope_base": "rope_theta pos_embed_rope_base",
    "model.rope_min_period": "pos_embed_rope_min_period",
    "model.rope_max_period": "pos_embed_rope_max_period",
    "model.rope_coordinates": "pos_embed_rope_normalize_coords",
    "model.rope_shift": "pos_embed_rope_shift_coords pos_embed_shift",
    "model.rope_jitter": "pos_embed_rope_jitter_coords pos_embed_jitter",
    "model.rope_rescale": "pos_embed_rope_rescale_coords pos_embed_rescale",
    "model.rope_dtype": "pos_embed_rope_dtype",
    "model.qkv_bias": "mask_k_bias key_bias",
    "model.norm_kind": "norm_layer",
    "model.untie_class_norm": "untie_cls_and_patch_norms",
    "model.untie_local_norm": "untie_global_and_local_cls_norm",
    "model.drop_path": "drop_path_rate stochastic_depth",
    "model.drop_path_kind": "drop_path_uniform",
    "model.layer_scale": "init_values layerscale",
    "model.remat": "gradient_checkpointing grad_checkpointing activation_checkpointing",
    "head.prototypes": "n_prototypes num_prototypes out_dim k",
    "head.patch_prototypes": "patch_out_dim",
    "head.act": "activation",
    "head.shared": "shared_head",
    "head.shared_teacher": "shared_head_teacher",
    "loss.class_weight": "lambda1",
    "loss.patch_weight": "lambda2",
    "loss.visible_weight": "visible_loss_weight ibot_plus_plus",
    "loss.student_temp": "temperature",
    "loss.teacher_temp_start": "warmup_teacher_temp",
    "loss.teacher_patch_temp_start": "warmup_teacher_patch_temp",
    "loss.teacher_temp_warmup": "warmup_teacher_temp_epochs",
    "loss.kernel_weight": "paka_weight",
    "high_res.shares": "global_local_crop_pairs_ratios",
    "gram.weight": "gram_loss_weight",
    "gram.start": "it_load_ema_teacher gram_it_first_update",
    "gram.every": "update_frequency",
    "gram.updates": "max_updates",
    "gram.scale": "gram_teacher_crops_size",
    "gram.colors": "gram_teacher_no_distortions",
    "gram.level": "img_level",
    "gram.negatives": "remove_neg remove_only_teacher_neg",
    "gram.tokens": "tokens_used",
    "gram.antialias": "global_teacher_resize_antialias",
    "masks.kind": "pred_shape",
    "masks.ratios": "pred_ratio mask_ratio",
    "masks.variances": "pred_ratio_var",
    "masks.share": "mask_sample_probability mask_probability",
    "masks.range": "mask_ratio_min_max",
    "masks.shift": "mask_random_circular_shift",
    "masks.start": "pred_start_epoch",
    "optim.name": "optimizer optimiser opt",
    "optim.lr": "learning_rate lrate base_lr blr max_lr peak_lr",
    "optim.lr_scaling": "scaling_rule",
    "optim.min_lr": "lr_min final_lr end_lr",
    "optim.warmup": "warmup_epochs warmup_steps",
    "optim.schedule": "lr_schedule scheduler lr_scheduler sched",
    "optim.cooldown": "cooldown_epochs cooldown_steps",
    "optim.trunc_extra": "schedule_trunc_extra",
    "optim.betas": "adam_beta1 adam_beta2 adamw_beta1 adamw_beta2 beta1 beta2 opt_betas",
    "optim.eps": "adam_eps adam_epsilon epsilon opt_eps",
    "optim.weight_decay": "wd decay",
    "optim.clip": "clip_grad grad_clip max_grad_norm gradient_clip_val",
    "optim.layer_decay": "layerwise_decay llrd lr_decay",
    "optim.rates": "lr_multipliers lr_mults param_groups patch_embed_lr_mult",
    "optim.freeze": "freeze_backbone frozen_layers freeze_layers freeze_backbone_epochs",
    "teacher_momentum": "momentum momentum_teacher ema ema_decay teacher_ema",
    "teacher_momentum_end": "final_momentum_teacher momentum_end",
    "data.source": "path root data_path dataset dir name data_root",
    "data.split": "train_split",
    "data.channels": "in_chans num_channels",
    "data.mean": "image_mean norm_mean",
    "data.std": "image_std norm_std",
    "data.global_views": "global_crops_number",
    "data.global_size": "img_size image_size input_size resolution size crop_size",
    "data.global_scale": "global_crops_scale scale crop_scale",
    "data.local_views": "local_crops_number n_crops num_crops local_crops",
    "data.local_size": "local_crops_size",
    "data.local_scale": "local_crops_scale",
    "data.aspect": "ratio aspect_ratio",
    "data.flip": "hflip",
    "data.jitter": "color_jitter",
    "data.gray": "grey grayscale",
    "data.blur": "gaussian_blur",
    "data.blur_radius": "sigma",
    "data.workers": "num_workers n_workers",
    "data.resize": "interpolation",
    "knn.every": "eval_every eval_freq val_every eval_interval",
    "knn.test_split": "val_split",
    "knn.k": "nb_knn",
    "checkpoint.every": "saveckp_freq save_every save_freq ckpt_every",
    "log_every": "log_freq print_freq log_interval print_every",
}


def unknown_key(name: str, keys: Iterable[str]) -> str:
    """Returns a sentence that says that a config has no such key, and names the likeliest ones."""
    leaf = _leaf(name)
    words = {key: {_leaf(key), *KNOWN_AS.get(key, "").split()} for key in keys}
    close = difflib.get_close_matches(name, words, n=1, cutoff=0.75)
    # Also a right name in the wrong section, or none ("lr", "model.lr"), or another word for it.
    close += [key for key in words if leaf in words[key] and key not in close]
    if not close:
        key_of = {word: key for key in words for word in words[key]}
        close = [key_of[word] for word in difflib.get_close_matches(leaf, key_of, n=1, cutoff=0.75)]
    hint = f"did you mean {' or '.join(close)}?" if close else "--help=config lists all keys"
    return f"config.{name} is no key of the config; {hint}"


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]
