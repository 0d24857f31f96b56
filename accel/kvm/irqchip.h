// KVM's interrupt controllers. Source: Linux, Documentation/virt/kvm/api.rst (KVM_CREATE_IRQCHIP, KVM_CAP_SPLIT_IRQCHIP,
// KVM_SET_GSI_ROUTING).
#pragma once

#include <linux/kvm.h>

#include <map>
#include <memory>

#include "src/base/lock.h"
#include "src/base/types.h"
#include "src/value/field.h"
#include "src/vm/irqchip.h"

namespace vmm::kvm {

class KvmAccelerator;

enum class IrqchipForm : u8 { automatic, off, split, on };

}  // namespace vmm::kvm

namespace vmm {
template <>
inline constexpr std::array enum_names<kvm::IrqchipForm> = {
    EnumNameOf<kvm::IrqchipForm>{kvm::IrqchipForm::automatic, "auto"}, EnumNameOf<kvm::IrqchipForm>{kvm::IrqchipForm::off, "off"},
    EnumNameOf<kvm::IrqchipForm>{kvm::IrqchipForm::split, "split"}, EnumNameOf<kvm::IrqchipForm>{kvm::IrqchipForm::on, "on"}};
}  // namespace vmm

namespace vmm::kvm {

class KvmIrqchip final : public vm::Irqchip {
 public:
  // Makes those of `form` (split or on) in the kernel; before there are CPUs.
  static Result<std::unique_ptr<KvmIrqchip>> make(int vm, IrqchipForm form);

  bool full() const override { return full_; }
  void send(u64 address, u32 data) override;
  void set_pin(unsigned pin, u64 address, u32 data) override;
  vm::LocalApicImage local_apic(vm::Vcpu& vcpu) override;
  void set_local_apic(vm::Vcpu& vcpu, const vm::LocalApicImage& image) override;
  void set_line(unsigned gsi, bool level) override;
  vm::PicImage pic(unsigned chip) override;
  void set_pic(unsigned chip, const vm::PicImage& image) override;
  vm::IoApicImage io_apic() override;
  void set_io_apic(const vm::IoApicImage& image) override;
  Result<> begin_pit(bool reinject) override;
  vm::PitImage pit() override;
  void set_pit(const vm::PitImage& image) override;

 private:
  KvmIrqchip(int vm, bool full) : vm_(vm), full_(full) {}
  Result<> put_routes() REQUIRES(mutex_);

  const int vm_;
  const bool full_;
  bool has_pit_ = false;
  Mutex mutex_;
  std::map<u32, std::vector<kvm_irq_routing_entry>> routes_ GUARDED_BY(mutex_);  // by line of the kernel's
};

}  // namespace vmm::kvm
