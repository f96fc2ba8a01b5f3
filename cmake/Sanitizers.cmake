# PEFT_SANITIZE=address,undefined: everything here is compiled and linked so,
# and the first finding ends the program.

if(PEFT_SANITIZE)
  add_compile_options(-fsanitize=${PEFT_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PEFT_SANITIZE})
endif()
