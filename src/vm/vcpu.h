// What the rest of the machine sees of a virtual CPU, and what accelerators and interrupt controllers see of each other. accel/ and
// hw/ meet only here.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "src/base/lock.h"
#include "src/base/result.h"
#include "src/base/types.h"
#include "src/memory/memory.h"
#include "src/vm/debug.h"
#include "src/x86/state.h"

namespace vmm::x86 {
struct CpuModel;  // the resolved feature set: src/x86/model.h
}

namespace vmm::vm {

class Machine;

// The local interrupt controller as its CPU sees it (implemented by hw/intc/apic). Called on the vCPU's thread without the machine
// lock unless noted.
class LocalInterrupts {
 public:
  virtual ~LocalInterrupts() = default;
  // An interrupt that the CPU would take now if IF is set (TPR and PIC considered). Cheap: an atomic load as a rule.
  virtual bool pending() const = 0;
  // Takes it: the vector, now in service; -1 if it has gone (spurious vectors are returned as vectors). May take the machine lock (PIC).
  virtual int acknowledge() = 0;
  virtual u8 tpr() const = 0;  // CR8 = tpr() >> 4
  virtual void set_tpr(u8 value) = 0;
  virtual u64 base_msr() const = 0;                   // IA32_APIC_BASE
  virtual bool set_base_msr(u64 value) = 0;           // false: #GP
  virtual bool read_x2apic(u32 msr, u64& value) = 0;  // MSRs 0x800–0x8ff; false: #GP
  virtual bool write_x2apic(u32 msr, u64 value) = 0;
  virtual u64 tsc_deadline() const = 0;
  virtual void set_tsc_deadline(u64 tsc) = 0;  // guest TSC value; 0 disarms
  virtual void reset(bool init) = 0;
  // The local APIC is in the accelerator (src/vm/irqchip.h): it has ended a level-triggered interrupt of the board's I/O APIC.
  virtual void ended(u8 vector) {}
  // The 4 KiB MMIO page at base_msr(): the CPU looks here before its address space. Offsets 0–0xfff; 32-bit accesses.
  virtual u32 read_page(u32 offset) = 0;
  virtual void write_page(u32 offset, u32 value) = 0;
};

// How the PC wires the x87 for CR0.NE = 0 (SDM 1 §8.7.2): FERR# raises IRQ 13; the handler's write to port F0h lowers it and asserts
// IGNNE# for as long as FERR# stays active. The board implements it.
class CoprocessorError {
 public:
  virtual ~CoprocessorError() = default;
  virtual void assert_ferr() = 0;    // on a vCPU's thread, parked, without the machine lock
  virtual void release_ferr() = 0;   // the same
  virtual bool ignored() const = 0;  // IGNNE#; any thread
};

// Requests that may be posted to a vCPU from any thread; bits of one word.
enum class Request : u32 {
  interrupt = 1 << 0,  // LocalInterrupts::pending() may have become true
  nmi = 1 << 1,
  smi = 1 << 2,
  init = 1 << 3,
  sipi = 1 << 4,
  stop = 1 << 5,   // park until resumed
  work = 1 << 6,   // run() queue is not empty
  exit = 1 << 7,   // the thread ends
  flush = 1 << 8,  // drop all cached translations of addresses (A20, topology, SMM map)
  mce = 1 << 9,
};

class Vcpu {
 public:
  virtual ~Vcpu() = default;
  Vcpu(const Vcpu&) = delete;

  unsigned index() const { return index_; }
  u32 apic_id() const { return apic_id_; }
  Machine& machine() const { return machine_; }
  const x86::CpuModel& model() const { return *model_; }
  // Only on the vCPU's thread, inside run(), or while it is parked by pause_all.
  x86::State& state() { return state_; }
  Object* object() const { return object_; }  // its X86Cpu in the tree
  // Boards with SMM: the space this CPU sees in system management mode.
  void set_smm_memory(memory::AddressSpace& space) { smm_memory_ = &space; }
  LocalInterrupts* interrupts() const { return interrupts_; }
  void set_interrupts(LocalInterrupts* controller) { interrupts_ = controller; }
  // Memory as this CPU sees it (its own: SMM); ports are the machine's.
  memory::AddressSpace& memory() const { return *memory_; }
  memory::AddressSpace& smm_memory() const { return smm_memory_ ? *smm_memory_ : *memory_; }
  memory::AddressSpace& ports() const { return *ports_; }

  // Any thread: set the request bit, kick the vCPU out of guest code, wake it if halted.
  virtual void post(Request request) = 0;
  void post_sipi(u8 vector);  // sets State::sipi_vector by way of run order: vector first, then the bit
  u8 take_sipi_vector() { return sipi_vector_.load(std::memory_order_acquire); }
  // Runs `work` on the vCPU's thread at an instruction boundary, or here if it is parked; returns when it is done. The caller holds
  // the machine lock or nothing; a vCPU thread that calls this for another is itself parked meanwhile.
  virtual void run(std::function<void()> work) = 0;

  // System reset, while parked: events that were posted and not yet taken (INIT, SIPI, NMI, SMI) must not reach the machine after it.
  virtual void drop_events() {}

  // Life of the thread; main loop, machine lock held.
  virtual Result<> start() = 0;                 // makes the thread, parked
  virtual void resume() = 0;                    // vm_start
  virtual void step(StepOptions) { resume(); }  // the same for one instruction: then it stops by itself, and Debug is told
  virtual void request_stop() = 0;              // vm_stop, part 1: post
  virtual void wait_stopped() = 0;              // part 2: releases the machine lock while it waits
  virtual void finish() = 0;                    // ends and joins the thread

  virtual int host_thread_id() const = 0;
  virtual bool halted() const = 0;  // any thread; a hint
  virtual u64 read_tsc() = 0;       // guest TSC now
  virtual u64 tsc_hz() const = 0;
  // Debug translation by the vCPU's current page tables; parked or inside run().
  virtual Result<GuestPhys> translate(GuestVirt address) = 0;

 protected:
  Vcpu(Machine& machine, unsigned index, u32 apic_id, const x86::CpuModel& model)
      : index_(index), apic_id_(apic_id), machine_(machine), model_(&model) {}
  friend class Machine;
  unsigned index_;
  u32 apic_id_;
  Machine& machine_;
  const x86::CpuModel* model_;
  LocalInterrupts* interrupts_ = nullptr;
  Object* object_ = nullptr;
  memory::AddressSpace* memory_ = nullptr;
  memory::AddressSpace* smm_memory_ = nullptr;
  memory::AddressSpace* ports_ = nullptr;
  std::atomic<u8> sipi_vector_{0};
  alignas(64) x86::State state_;
};

inline void Vcpu::post_sipi(u8 vector) {
  sipi_vector_.store(vector, std::memory_order_release);
  post(Request::sipi);
}

}  // namespace vmm::vm
