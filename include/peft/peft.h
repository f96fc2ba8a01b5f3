// SPDX-License-Identifier: Apache-2.0
// The whole library.
#pragma once

#include "peft/adalora_config.h"
#include "peft/adapt.h"
#include "peft/adapter_config.h"
#include "peft/adapter_folder.h"
#include "peft/adapter_status.h"
#include "peft/adapters.h"
#include "peft/clone.h"
#include "peft/error.h"
#include "peft/exported_program.h"
#include "peft/ia3_config.h"
#include "peft/layer_kinds.h"
#include "peft/lora_config.h"
#include "peft/match_report.h"
#include "peft/safetensors.h"
#include "peft/script_module.h"
#include "peft/state_dict.h"
#include "peft/version.h"
