// HID over USB: what keyboards and pointers share. Source: Device Class Definition for HID 1.11, §7.2 (requests), appendix B (boot
// reports).
#pragma once

#include "hw/usb/usb.h"

namespace vmm::hw {

class UsbHid : public UsbDevice {
 public:
  static const TypeInfo type;  // "usb-hid"

 protected:
  static constexpr u8 report_endpoint = 0x81;
  static constexpr usize largest_report = 8;
  struct Report {
    std::array<u8, largest_report> bytes{};
    usize length = 0;
  };
  // The next report if there is news; null: nothing has changed.
  virtual std::optional<Report> next_report() = 0;
  virtual Report current_report() const = 0;  // what GET_REPORT and the idle rate repeat
  virtual void output_report(std::span<const u8> bytes) {}
  virtual std::span<const u8> report_descriptor() const = 0;
  virtual std::span<const u8> hid_descriptor() const = 0;
  virtual void forget() = 0;  // events that wait

  u8 speed_bits() const override;
  UsbAnswer class_control(const UsbSetup& setup, std::span<u8> data) override;
  UsbAnswer class_transfer(u8 endpoint, std::span<u8> data) override;
  void class_reset() override;
  Result<> after_load() override;
  std::span<const u8> class_descriptor(u8 kind, u8 index) const override;
  Task<> unrealize_usb() override;
  void news();  // something waits to be reported
  bool boot_protocol() const { return protocol_ == 0; }

 private:
  static const Field properties[], state[];
  void idle_over();
  u32 usb_version_ = 2;
  std::string display_;
  u32 head_ = 0;
  u8 idle_ = 0, protocol_ = 1;  // idle: in 4 ms, 0 for ever
  bool repeat_ = false;
  Timer idle_timer_{Clock::guest, on<&UsbHid::idle_over>, *this};
};

}  // namespace vmm::hw
