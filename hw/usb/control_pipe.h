// Endpoint 0 behind a controller that sends its packets one by one (UHCI, EHCI), where a device takes a control transfer as one call: SETUP
// is kept, data gathered or handed out, and the device is asked when its answer is due. Source: USB 2.0 §8.5.3.
#pragma once

#include <map>
#include <vector>

#include "hw/usb/usb.h"

namespace vmm::hw {

class UsbControlPipe {
 public:
  static constexpr u16 most_bytes = 4096;  // of one transfer's data; a longer one stalls

  UsbAnswer setup(std::span<const u8> packet);
  UsbAnswer in(UsbDevice& device, std::span<u8> data);
  UsbAnswer out(UsbDevice& device, std::span<const u8> data);

  // State, as numbers: whether a transfer is under way, the packet, what was handed out, the data.
  std::vector<u64> words() const;
  static Result<UsbControlPipe> from_words(std::span<const u64> words);

 private:
  enum class Stage : u8 { idle, begun, answered };
  UsbAnswer ask(UsbDevice& device);
  Stage stage_ = Stage::idle;
  UsbSetup setup_;
  std::vector<u8> data_;
  usize at_ = 0;
};

// The pipes of one controller's devices, by address.
class UsbControlPipes {
 public:
  UsbControlPipe& of(u8 address) { return pipes_[address & 0x7f]; }
  void clear() { pipes_.clear(); }
  std::vector<u64> words() const;
  Result<> set_words(std::span<const u64> words);

 private:
  std::map<u8, UsbControlPipe> pipes_;
};

// The device of that address at a root port or behind its hubs.
UsbDevice* usb_device_at(UsbDevice* root, u8 address);

}  // namespace vmm::hw
