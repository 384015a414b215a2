import { installPython, type PythonEnvironment } from '../python-environment.ts';

/** Libraries that are measured, and what their data takes to make. */
const PACKAGES = [
  'numpy==2.4.6',
  'faiss-cpu==1.15.1',
  'hnswlib==0.8.0',
  'usearch==2.26.6',
  'onnx==1.23.2',
  'onnxruntime==1.32.0',
  'safetensors==0.8.0',
  'tokenizers==0.23.3',
];

/** A Python environment of the bench's own. */
export type PythonPeers = PythonEnvironment;

/** Makes the environment in `folder`, unless it is there. */
export const installPythonPeers = (folder: string): PythonPeers => installPython(folder, PACKAGES);
