// A virtio device behind any transport: status, features, configuration space, queues. Source: virtio 1.2 §2, §3.
//
// The transport (virtio-pci, virtio-mmio) owns the registers; the device is its child "virtio-backend" on a bus of one place. Machine
// lock held, except where a comment names another thread. Queues are worked on in the loop that the device names: the main loop,
// with the machine lock, or an iothread's, without it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "hw/core/device.h"
#include "hw/core/when_running.h"
#include "hw/virtio/virtqueue.h"
#include "src/event/event_loop.h"

namespace vmm::hw {

namespace virtio {
enum Status : u8 { acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8, needs_reset = 0x40, failed = 0x80 };
}

// What a device asks of its transport.
class VirtioTransport {
 public:
  virtual ~VirtioTransport() = default;
  virtual void queue_interrupt(u16 vector) = 0;  // any thread
  virtual void config_interrupt() = 0;           // machine lock
  virtual memory::AddressSpace& dma() = 0;
  virtual bool may_dma() const { return true; }
  virtual Device& owner() = 0;  // of the registers: DMA into them is refused while we work
  // Features that this transport offers beside the device's, and those that it cannot.
  virtual u64 offered() const { return 0; }
};

class VirtioBus : public Bus {
 public:
  static const TypeInfo type;  // "virtio-bus": what devices name; transports have types of their own
  std::string_view bus_type() const override { return type_info().name; }
  Result<> may_plug(Device& device) override;
  VirtioTransport* transport = nullptr;
};

class VirtioDevice : public Device {
 public:
  static const TypeInfo type;
  ~VirtioDevice() override;
  u16 device_id() const { return device_id_; }  // virtio 1.2 §5

  // --- The transport's side
  u64 offered_features() const;
  u64 driver_features() const { return features_; }
  void set_driver_features(u64 wanted);  // ignored once FEATURES_OK
  u8 status() const;
  void set_status(u8 status);  // 0 resets
  u8 config_generation() const { return config_generation_; }
  usize config_size() const { return config_bytes(); }
  u64 config_load(u64 offset, unsigned size) const;  // beyond the end: all ones
  void config_store(u64 offset, unsigned size, u64 value);
  unsigned queue_count() const { return static_cast<unsigned>(queues_.size()); }
  VirtQueue* queue(unsigned n) const { return n < queues_.size() ? queues_[n].get() : nullptr; }
  void enable_queue(unsigned n);  // by the driver; starts at once if DRIVER_OK is set
  void queue_placed(unsigned n);  // a legacy driver gave it an address, perhaps after DRIVER_OK
  void reset_queue(unsigned n);   // VIRTIO_F_RING_RESET
  void kick(unsigned n);          // any thread: the driver says that a queue has requests
  void driver_reset();            // all of it, as the driver asks for by status 0

  void reset() override;
  void settle() override {}
  Result<> after_load() override;

  // --- The device's side
  bool has(u64 feature) const { return features_ & feature; }
  bool running() const { return running_.load(std::memory_order_acquire); }  // DRIVER_OK, not broken
  // Any thread. The queue's own: an interrupt; a mistake of the driver, which stops the device until it is reset.
  void interrupt(VirtQueue& queue);
  void queue_broken(u16 queue, std::string_view why);
  void broken(std::string_view why);  // the same for what is wrong within a request
  VirtioTransport& transport() const { return *transport_; }
  memory::AddressSpace& dma() const { return transport_->dma(); }

 protected:
  explicit VirtioDevice(u16 device_id) : device_id_(device_id) {}
  Result<> realize() final;
  Task<> unrealize() final;
  virtual Result<> realize_virtio() { return {}; }  // adds queues; on failure base class takes them away
  virtual Task<> unrealize_virtio() { co_return Result<>{}; }
  VirtQueue& add_queue(u16 size);
  // Features beside those of rings and transport; in effect from FEATURES_OK on.
  virtual u64 device_features() const { return 0; }
  virtual usize config_bytes() const { return 0; }
  virtual void read_config(std::span<u8> image) const {}                             // all of it
  virtual void write_config(std::span<const u8> image, usize first, usize count) {}  // [first, first+count) is new
  virtual void features_set() {}                                                     // FEATURES_OK (or a legacy driver's first use)
  virtual void driver_ready() {}                                                     // DRIVER_OK: queues run from now on
  virtual void reset_virtio() {}                                                     // queues are at rest: forget what was under way
  virtual void queue_notified(unsigned n) {}                                         // in loop_of(n)
  virtual EventLoop& loop_of(unsigned n) { return machine().main_loop(); }
  // Requests of before a reset that still use guest memory: the status reads nonzero until they are gone (modern drivers wait for it).
  virtual bool busy() const { return false; }
  // A request of a loaded state that was under way when it was saved: serve it now (in the main loop; the machine begins to run).
  virtual void serve_again(unsigned /*n*/, Chain&& /*chain*/) {}
  void config_changed();  // interrupt; a running driver reads anew

 private:
  friend class VirtioBus;
  static const Field properties[13], state[5];
  u8 saved_status() const { return status_; }
  Result<> load_status(const u8& status);
  void run_queue(unsigned n);
  void start();
  void stop();  // waits until no loop works on a queue
  std::vector<VirtQueueState> saved_queues() const;
  Result<> load_queues(const std::vector<VirtQueueState>& queues);
  std::vector<ChainState> saved_chains() const;
  Result<> load_chains(const std::vector<ChainState>& chains);

  std::vector<ChainState> loaded_chains_;          // until after_load()
  std::vector<std::pair<unsigned, Chain>> again_;  // until the machine runs
  WhenRunning when_running_;
  const u16 device_id_;
  VirtioTransport* transport_ = nullptr;
  std::vector<std::unique_ptr<VirtQueue>> queues_;
  u64 features_ = 0;
  u8 config_generation_ = 0;
  std::atomic<u8> status_{0};
  std::atomic<bool> running_{false};
  bool indirect_desc_ = true, event_idx_ = true, notify_on_empty_ = true, any_layout_ = true, iommu_platform_ = false, packed_ = false,
       queue_reset_ = true, in_order_ = false, use_started_ = true, use_disabled_flag_ = true, disable_legacy_check_ = false,
       order_platform_ = false, notification_data_ = false;
};

}  // namespace vmm::hw
