"""Train a small CLIP on captioned photos."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning
import open_clip
import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from omegaconf import DictConfig, OmegaConf
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from backdoor_privacy.clip.export import write_local_dir
from backdoor_privacy.clip.pair_steps import PairData, PairSteps
from backdoor_privacy.config.containers import settings_of
from backdoor_privacy.data.excluded import pairs_without
from backdoor_privacy.data.pair_index import PairIndex, as_files
from backdoor_privacy.data.shards import find_shards
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.checkpoints import LAST, DurableCheckpoints, last_checkpoint
from backdoor_privacy.system.hardware import fastest_attention
from backdoor_privacy.system.signals import Stopped
from backdoor_privacy.system.stopping import KeepSignals, place_of

log = logging.getLogger(__name__)

_KEY = "data.folder"
# They do not apply: a resumed training knows its next batch, and finds its own checkpoints and logs.
_EXPECTED_WARNINGS = (
    ".*does not have many workers|You're resuming from a checkpoint that ended before the epoch ended|Checkpoint "
    "directory .* exists"
)


def learning_rate_factor(step: int, num_warmup_steps: int, num_steps: int) -> float:
    """Return the factor of the learning rate, in [0, 1]: a linear warm-up, then half a cosine down to zero."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps))))


class ClipPretraining(lightning.LightningModule):
    """Contrastive training of a CLIP from scratch (open_clip's loss and settings).

    Args:
        model: to train.
        lr: the highest learning rate.
        weight_decay: of AdamW.
        num_warmup_steps: steps in which the learning rate grows.
        num_steps: of the whole training.
        pairs: digest of the pairs and their order, so that no training resumes on others.
    """

    model: open_clip.CLIP

    def __init__(
        self, model: nn.Module, *, lr: float, weight_decay: float, num_warmup_steps: int, num_steps: int, pairs: str
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model", "pairs"])
        self.model, self.pairs = model, pairs
        self.lr, self.weight_decay = lr, weight_decay
        self.num_warmup_steps, self.num_steps = num_warmup_steps, num_steps
        self.loss = open_clip.ClipLoss()

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        """Contrast one batch of photos with their captions."""
        image_features, text_features, logit_scale = self.model(*batch)
        loss = self.loss(image_features.float(), text_features.float(), logit_scale.float())
        self.log("train/contrastive_loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def _limit_temperature(self) -> None:
        """Keep the temperature in CLIP's range."""
        self.model.logit_scale.clamp_(0, math.log(100))

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Store the digest of the pairs."""
        checkpoint["pairs"] = self.pairs

    def on_load_checkpoint(self, checkpoint: Mapping[str, object]) -> None:
        """Check that the pairs are the same; earlier versions did not store their digest."""
        if checkpoint.get("pairs", self.pairs) != self.pairs:
            raise InputError(
                "paths.run: expected a new folder or the one of a training on the same pairs, got one on others "
                f"({_KEY}, batch_size, seed, exclude or the shards have changed); choose another folder"
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW as in open_clip: no decay on gains, biases and the temperature."""
        decayed = [parameter for parameter in self.model.parameters() if parameter.ndim >= 2]
        plain = [parameter for parameter in self.model.parameters() if parameter.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=self.lr,
            betas=(0.9, 0.98),
            eps=1e-6,
            foreach=True,
        )
        # As a part of the step: a checkpoint is written right after it.
        optimizer.register_step_post_hook(lambda *_: self._limit_temperature())
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.num_warmup_steps, self.num_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pretrain(cfg: DictConfig, excluded: Sequence[str] = ()) -> Path:
    """Train the model of the config; a stopped run resumes, to the same weights as without the stop.

    Args:
        cfg: of `pretrain`.
        excluded: names of people whose pairs are left out; read from where `cfg.exclude` says.

    Returns:
        The open_clip local-dir with the trained weights in fp16.

    Raises:
        InputError: see `find_shards`, `PairIndex` and `pairs_without`.
    """
    if any(value is not None for value in cfg.exclude.values()) and not excluded:
        raise InputError("exclude: expected the names of the people to leave out, got none; pass them as excluded")
    lightning.seed_everything(cfg.seed, workers=True)
    folder = Path(cfg.paths.run)
    model_config = {
        "model_cfg": settings_of(cfg.model, resolve=True),
        "preprocess_cfg": settings_of(cfg.preprocess, resolve=True),
    }
    model = open_clip.CLIP(**model_config["model_cfg"])
    if isinstance(model.visual, ModifiedResNet):  # its convolutions are faster in this layout
        model.to(memory_format=torch.channels_last)
    trainer = _trainer(cfg, folder)
    steps = _pair_steps(cfg, model.context_length, excluded, trainer.world_size)
    settings = {key: cfg[key] for key in ("lr", "weight_decay", "num_warmup_steps", "num_steps")}
    module = ClipPretraining(model, **settings, pairs=steps.digest)
    with fastest_attention(trainer.strategy.root_device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", _EXPECTED_WARNINGS)
        try:
            data = PairData(steps, cfg.num_workers)
            trainer.fit(module, data, ckpt_path=last_checkpoint(folder / "checkpoints"))
        except Stopped as stop:
            stop.place = place_of(folder / "checkpoints" / LAST, "the training")
            raise
    write_local_dir(folder / "clip", model, model_config, dtype=torch.float16)
    log.info("Wrote %s", folder / "clip")
    return folder / "clip"


def _pair_steps(cfg: DictConfig, context_length: int, excluded: Sequence[str], num_ranks: int) -> PairSteps:
    """Return the batches of a config, without the pairs of some people."""
    pairs = PairIndex(as_files(find_shards(instantiate(cfg.data).folder, _KEY), _KEY, cfg.paths.cache), _KEY)
    kept = pairs_without(pairs, excluded, "exclude")
    log.info("%d pairs, and %d of %d people left out", kept.sum(), (~kept).sum(), len(excluded))
    size, mean, std = (settings_of(cfg.preprocess, resolve=True)[key] for key in ("size", "mean", "std"))
    return PairSteps(
        pairs=pairs,
        kept=kept,
        preprocess=image_transform_v2(
            PreprocessCfg(size=size, mean=mean, std=std),
            is_train=True,
            aug_cfg=OmegaConf.to_container(cfg.augmentation),
        ),
        tokenizer=open_clip.SimpleTokenizer(context_length=context_length),
        batch_size=cfg.batch_size,
        num_steps=cfg.num_steps,
        seed=cfg.seed,
        key=_KEY,
        num_ranks=num_ranks,
    )


def _trainer(cfg: DictConfig, folder: Path) -> lightning.Trainer:
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        folder / "checkpoints", save_last=True, every_n_train_steps=cfg.checkpoint_every_steps
    )
    return lightning.Trainer(
        max_steps=cfg.num_steps,
        logger=lightning.pytorch.loggers.CSVLogger(folder, name="", version=""),
        callbacks=[checkpoint, KeepSignals()],
        plugins=[DurableCheckpoints()],
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **cfg.trainer,
    )
