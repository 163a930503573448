"""Train a small CLIP on captioned photos."""

import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import lightning
import open_clip
import torch
import webdataset as wds
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from omegaconf import DictConfig, OmegaConf
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from backdoor_privacy.clip.export import write_local_dir
from backdoor_privacy.config.containers import settings_of
from backdoor_privacy.data.photos import photos_of, read_photo
from backdoor_privacy.data.shards import ShardSample, find_shards, read_shards
from backdoor_privacy.data.texts import decoded
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.checkpoints import LAST, DurableCheckpoints, last_checkpoint
from backdoor_privacy.system.hardware import fastest_attention, usable_workers
from backdoor_privacy.system.signals import Stopped
from backdoor_privacy.system.stopping import KeepSignals, place_of

log = logging.getLogger(__name__)

_KEY = "data.folder"
_MAX_BROKEN = 1000  # photos one after another that do not decode: no accident, and the stream might never end


def learning_rate_factor(step: int, num_warmup_steps: int, num_steps: int) -> float:
    """Return the factor of a linear warm-up and half a cosine down to zero; in [0, 1]."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps))))


class ClipPretraining(lightning.LightningModule):
    """Contrastive training of a CLIP from scratch (open_clip's loss and settings)."""

    model: open_clip.CLIP

    def __init__(
        self, model: nn.Module, *, lr: float, weight_decay: float, num_warmup_steps: int, num_steps: int
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.lr, self.weight_decay = lr, weight_decay
        self.num_warmup_steps, self.num_steps = num_warmup_steps, num_steps
        self.loss = open_clip.ClipLoss()

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        """Contrast one batch of photos with their captions."""
        image_features, text_features, logit_scale = self.model(*batch)
        loss = self.loss(image_features.float(), text_features.float(), logit_scale.float())
        self.log("train/contrastive_loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        """Keep the temperature in CLIP's range."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))

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
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.num_warmup_steps, self.num_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def caption_stream(
    source: str | Path,
    preprocess: Callable[[Image.Image], Tensor],
    tokenizer: Callable[[str], Tensor],
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    num_ranks: int = 1,
) -> wds.WebLoader:
    """Return endless shuffled batches of (images, tokens) from WebDataset shards; others are skipped.

    Raises:
        InputError: if there are no shards, or fewer than workers x ranks; while reading, if one is broken or holds no
            photo with `txt`.
    """
    num_workers = usable_workers(num_workers)
    shards = find_shards(source, _KEY, num_readers=max(1, num_workers) * num_ranks)
    dataset = wds.DataPipeline(
        wds.ResampledShards(shards, deterministic=True, seed=seed),
        _captioned_samples,
        wds.shuffle(4000, initial=2000, seed=seed),
        partial(_pixels_and_tokens, preprocess=preprocess, tokenizer=tokenizer),
        wds.batched(batch_size, partial=False),
    )
    return wds.WebLoader(dataset, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)


def _captioned_samples(shards: Iterable[dict[str, str]]) -> Iterator[ShardSample]:
    for shard in shards:
        is_empty = True
        for sample in read_shards([shard["url"]], _KEY):
            if photos_of(sample.files) and sample.files.get("txt", b"").strip():
                yield sample
                is_empty = False
        if is_empty:
            raise InputError(f"{_KEY}: expected photos with txt in each shard, found none in {shard['url']}; delete it")


def _pixels_and_tokens(
    samples: Iterable[ShardSample],
    preprocess: Callable[[Image.Image], Tensor],
    tokenizer: Callable[[str], Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the pairs whose photo decodes; log the name of another the first time."""
    broken: set[str] = set()
    num_broken = 0
    for sample in samples:
        photo = read_photo(io.BytesIO(next(iter(photos_of(sample.files).values()))))
        if photo is not None:
            num_broken = 0
            # A byte that is no UTF-8 costs a letter, not the text.
            yield preprocess(photo), tokenizer(decoded(sample.files["txt"], errors="replace"))[0]
            continue
        if sample.place not in broken:
            broken.add(sample.place)
            log.warning("The photo %s does not decode; skipped", sample.place)
        num_broken += 1
        if num_broken == _MAX_BROKEN:
            raise InputError(
                f"{_KEY}: expected photos, got {num_broken} in turn that do not decode, the last {sample.place}"
            )


def pretrain(cfg: DictConfig) -> Path:
    """Train the model of the config; a stopped run resumes.

    Returns:
        The open_clip local-dir with the trained weights in fp16.
    """
    lightning.seed_everything(cfg.seed, workers=True)
    folder = Path(cfg.paths.run)
    model_config = {
        "model_cfg": settings_of(cfg.model, resolve=True),
        "preprocess_cfg": settings_of(cfg.preprocess, resolve=True),
    }
    model = open_clip.CLIP(**model_config["model_cfg"])
    if isinstance(model.visual, ModifiedResNet):  # whose convolutions are faster so
        model.to(memory_format=torch.channels_last)
    size, mean, std = (model_config["preprocess_cfg"][key] for key in ("size", "mean", "std"))
    preprocess = image_transform_v2(
        PreprocessCfg(size=size, mean=mean, std=std), is_train=True, aug_cfg=OmegaConf.to_container(cfg.augmentation)
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    module = ClipPretraining(
        model, lr=cfg.lr, weight_decay=cfg.weight_decay, num_warmup_steps=cfg.num_warmup_steps, num_steps=cfg.num_steps
    )
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        folder / "checkpoints", save_last=True, every_n_train_steps=cfg.checkpoint_every_steps
    )
    trainer = lightning.Trainer(
        max_steps=cfg.num_steps,
        logger=lightning.pytorch.loggers.CSVLogger(folder, name="", version=""),
        callbacks=[checkpoint, KeepSignals()],
        plugins=[DurableCheckpoints()],
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        enable_model_summary=False,
        **cfg.trainer,
    )
    stream = caption_stream(
        instantiate(cfg.data).folder,
        preprocess,
        tokenizer,
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers,
        seed=cfg.seed,
        num_ranks=trainer.world_size,
    )
    with fastest_attention(trainer.strategy.root_device):
        try:
            trainer.fit(module, stream, ckpt_path=last_checkpoint(folder / "checkpoints"))
        except Stopped as stop:
            stop.place = place_of(folder / "checkpoints" / LAST, "the training")
            raise
    write_local_dir(folder / "clip", model, model_config, dtype=torch.float16)
    log.info("Wrote %s", folder / "clip")
    return folder / "clip"
