import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os';
import process from 'node:process';

/** The machine a figure was measured on. */
export interface Machine {
  cpu: string;
  /** Cores this process may use. */
  cores: number;
  memoryBytes: number;
  platform: string;
  node: string;
  /** The `flags` line of /proc/cpuinfo; empty where there is none. */
  cpuFlags: string;
  /** Processes that wanted a core in the last minute, before the measurement began. */
  loadBefore: number;
}

export function describeMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
    cpuFlags: readCpuFlags(),
    loadBefore: loadavg()[0] ?? 0,
  };
}

/** Says so if other work runs on the machine. */
export function warnIfBusy({ loadBefore }: Machine): void {
  if (loadBefore > 0.5) {
    process.stderr.write(
      `load average ${loadBefore.toFixed(1)}: other work runs here, do not trust figures\n`,
    );
  }
}

function readCpuFlags(): string {
  if (!existsSync('/proc/cpuinfo')) return '';
  const line = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'));
  return line?.[1] ?? '';
}
