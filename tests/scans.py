"""DICOM files, written by pydicom."""

import io

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")


def scan(values: np.ndarray, bits=12, photometric="MONOCHROME2", **tags):
    """Returns a file with pixels of 16 bits, or of 8, and what else its header says."""
    wide = 8 if values.dtype.itemsize == 1 else 16
    frames = values.ndim == 3 and values.shape[-1] != 3
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["1"])
    dataset.Rows, dataset.Columns = values.shape[1:] if frames else values.shape[:2]
    dataset.SamplesPerPixel = 3 if photometric == "RGB" else 1
    if photometric == "RGB":
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = len(values)
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = wide, bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW" if wide == 16 else "OB"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()
